"""A lone statement of ours in a simple Query.

It runs through the extended protocol, with the Query's own unnamed statement and portal, and the client sees what it would see of a
simple Query: RowDescription, rows and completion, all in text.  So a failure of ours can still fail the server's transaction before
the Sync that ends it, and nothing needs to be written in a READ ONLY one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from thanoproxy.errors import NoTransaction, ThanoError
from thanoproxy.session import keeping, saved
from thanoproxy.session.exchange import Bound
from thanoproxy.session.execute import statement_timeout
from thanoproxy.session.materialise import Refused, explained, materialise
from thanoproxy.session.prepared import PortalOfOurs, StatementOfOurs
from thanoproxy.session.retag import retag
from thanoproxy.statements.shapes import Nested, Refresh, Rewrite, Save, SaveRows, Saving, Shape
from thanoproxy.wire import messages
from thanoproxy.wire.pipeline import REPLY_ENDS, Ready, SegmentFailed, UpstreamError

if TYPE_CHECKING:
    from thanoproxy.session.attend import Attendant

__all__ = ["run_lone"]

_IDLE = ord("I")


async def run_lone(attendant: Attendant, shape: Shape, *, first: bool) -> None:
    """Run the statement; its ReadyForQuery is on its way when this returns.

    `first` says that the server has been asked nothing yet on its behalf.
    """
    exchange = attendant.exchange
    if isinstance(shape, Rewrite):
        exchange.pipeline.expect(RewrittenQuery(exchange.client.write, retag(shape, exchange.codec)))
        exchange.send(messages.query(shape.sql.encode(exchange.codec)))
        return
    ours = StatementOfOurs(shape, exchange.codec, expansion=attendant.expansion)
    try:
        if first and exchange.pipeline.status == _IDLE and (isinstance(shape, SaveRows | Refresh) or _only_reads(shape)):
            await exchange.hold_snapshot()
        if isinstance(shape, Saving):
            await _run_saving(attendant, shape, ours)
        elif isinstance(shape, Nested):
            await _run_nested(attendant, shape)
        else:
            async with attendant.running(shape):
                await attendant.check_model(shape)
                await _run_unnamed(attendant, ours)
    except SegmentFailed:
        pass
    except Refused as refused:
        exchange.refuse(refused.fields)
    except UpstreamError as problem:
        exchange.refuse(attendant.translated(problem.fields, None if isinstance(shape, Saving) else ours.source))
    except ThanoError as problem:
        await attendant.fail(problem)
    if not exchange.pipeline.skipping:
        # A simple Query leaves no unnamed statement behind.
        await exchange.swallow(messages.close(b"S", b""), b"3")
    exchange.sync()


async def _run_unnamed(attendant: Attendant, ours: StatementOfOurs) -> None:
    exchange = attendant.exchange
    await exchange.swallow(messages.parse(messages.Parse(b"", ours.text)), b"1")
    await attendant.describe_inner(ours, b"")
    await exchange.swallow(messages.bind(messages.Bind(b"", b"", b"")), b"2")
    assert ours.inner is not None, "described above"
    await attendant.execute_ours(ours.shape, b"", 0, PortalOfOurs(ours, (), ours.inner, announce=True))


def _only_reads(shape: Shape) -> bool:
    return isinstance(shape, Nested) and shape.reads


async def _run_saving(attendant: Attendant, shape: Saving, ours: StatementOfOurs) -> None:
    exchange = attendant.exchange
    if isinstance(shape, Save):
        await saved.check(attendant, shape)
        await attendant.announce(shape)
    else:
        async with attendant.stop.during(await statement_timeout(exchange)):
            ours.given, tables = await keeping.keep(attendant, shape)
        attendant.leftovers.done(tables)
    source = ours.source
    await attendant.swallow(messages.parse(messages.Parse(b"", source.text.encode(exchange.codec))), source)
    await exchange.swallow(messages.bind(messages.Bind(b"", b"", b"")), b"2")
    exchange.forward(messages.execute(b""), REPLY_ENDS[ord("E")], explained([], source, attendant))
    await exchange.settle()


async def _run_nested(attendant: Attendant, shape: Nested) -> None:
    """Fill the holes; the rest is PostgreSQL's own work, with its own time limit."""
    exchange = attendant.exchange
    if shape.needs_block and exchange.pipeline.status == ord("I"):
        # The server would not say so: to it, what comes before in the same implicit transaction is a block (25P01 is for a lone one).
        raise NoTransaction("DECLARE CURSOR can only be used in transaction blocks")
    await attendant.leftovers.clear(exchange, b"")
    async with attendant.running(shape):
        await attendant.check_model(shape)
        source, bound, tables, lines = await materialise(attendant, shape, Bound())
    await attendant.swallow(messages.parse(messages.Parse(b"", source.text.encode(exchange.codec), bound.types)), source)
    await exchange.swallow(messages.bind(messages.Bind(b"", b"", bound.parameters)), b"2")
    exchange.forward(messages.describe(b"P", b""), REPLY_ENDS[ord("D")], lambda kind, frame: b"" if kind == ord("n") else frame)
    exchange.forward(messages.execute(b""), REPLY_ENDS[ord("E")], explained(lines, source, attendant))
    await exchange.settle()
    if not shape.outlives:
        attendant.leftovers.done(tables)


class RewrittenQuery(Ready):
    """A Query of ours in place of the client's: its completion gets the tag of the client's statement."""

    __slots__ = ("rewrite",)

    def __init__(self, forward: Callable[[bytes], None], rewrite: Callable[[int, bytes], bytes]) -> None:
        super().__init__(forward, sync=False)
        self.rewrite = rewrite

    def take(self, kind: int, frame: bytes) -> bool:
        return super().take(kind, self.rewrite(kind, frame))

    def failed(self, frame: bytes) -> None:
        self.forward(self.rewrite(ord("E"), frame))
