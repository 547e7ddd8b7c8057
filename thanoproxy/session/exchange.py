"""Talking to upstream in the middle of a client's conversation: questions of our own, waiting, and failing on purpose.

Waiting is done with Flush, never Sync, since a Sync commits.  What we ask uses a private name for its statement and portal, so the
client's unnamed ones live on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from thanoproxy.catalog import store
from thanoproxy.errors import ThanoError
from thanoproxy.session.link import Link
from thanoproxy.wire import messages
from thanoproxy.wire.framing import split_frames
from thanoproxy.wire.messages import Column, ErrorFields
from thanoproxy.wire.pipeline import ASYNCHRONOUS, Collect, Forward, Pipeline, Ready, Rows, SegmentFailed, UpstreamError
from thanoproxy.wire.values import TEXT_ARRAY, WHOLE_NUMBERS, whole_number

__all__ = ["PATIENCE", "PRIVATE", "Bound", "Exchange"]

PRIVATE = b"thanoproxy"
"""The name of our own statement and portal; the barrier in `attend` closes it too, which is no error where it does not exist."""

_CLOSE_PRIVATE = messages.close(b"S", PRIVATE) + messages.close(b"P", PRIVATE)
_UNHEARD = {"warning": frozenset({"NOTICE"}), "error": frozenset({"NOTICE", "WARNING"})}
"""Severities of ours that a client_min_messages keeps from the client (runtime-config-client.html)."""

PATIENCE = 0.5
"""Seconds that a server has to hear of the end of a COPY."""

_EXECUTE_ENDS = frozenset(b"CsI")
_LAST_WORDS = (b"\0VFATAL\0", b"\0VPANIC\0")
"""Behind an error of these severities the server closes the connection, so it is the client's, whatever else is owed."""


class Bound(NamedTuple):
    """What a client bound to a statement: the types of the parameters, and formats and values as they came."""

    types: tuple[int, ...] = ()
    parameters: bytes = b""

    def extended(self, arrays: Sequence[bytes]) -> Bound:
        """With more parameters behind: text[] in binary format."""
        return Bound((*self.types, *(TEXT_ARRAY for _ in arrays)), messages.add_parameters(self.parameters, arrays))

    @property
    def values(self) -> int:
        """How many there are."""
        return len(messages.read_parameters(self.parameters))

    def numbers(self) -> list[int | None]:
        """Each parameter that is a whole number (int2, int4, int8), None for the others."""
        values = zip(self.types, messages.read_parameters(self.parameters), strict=False)
        return [whole_number(value, format_) if type_ in WHOLE_NUMBERS else None for type_, (format_, value) in values]


_UNBOUND = Bound()


class Exchange:
    """Both links and the queue of replies owed between them, while a statement of ours needs attention."""

    def __init__(self, client: Link, upstream: Link, status: int, on_idle: Callable[[], None]) -> None:
        self.client = client
        self.upstream = upstream
        self.pipeline = Pipeline(status, self._idle)
        self.codec = "utf-8"
        self.skip = 0
        self.stopped = False
        self.muted = b""
        self.client_min_messages = "notice"
        self.watch: Callable[[int, bytes], None] = _ignore
        self.cancel_upstream: Callable[[], Awaitable[None]] = _no_cancel
        self._on_idle = on_idle
        self._buffer = bytearray()
        self._settled: asyncio.Future[None] | None = None

    def receive(self, data: bytes) -> None:
        """Bytes from upstream: relay what belongs to nobody, dispose of the rest as the queue says."""
        if self.skip:
            head, data = data[: self.skip], data[self.skip :]
            self.skip -= len(head)
            self.client.write(head)
        self._buffer += data
        for kind, frame in split_frames(self._buffer):
            self.watch(kind, frame)
            if kind == ord("N") and self.muted and self.muted in frame:
                continue
            if kind in ASYNCHRONOUS or not self.pipeline.queue:
                # A FATAL (administrator's shutdown, a timeout) may come when nothing is owed.
                self.client.write(frame)
            elif kind == ord("E") and any(severity in frame for severity in _LAST_WORDS):
                self.client.write(frame)
                self.close()
            else:
                self.pipeline.take(kind, frame)

    def close(self) -> None:
        """The server is gone: whoever waits for it, now or later, gets `SegmentFailed`."""
        self.pipeline.close()
        self._wake()

    def take_rest(self) -> bytes:
        """What arrived of a message that is not whole yet; it is the caller's from now on."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def send(self, data: bytes) -> None:
        self.upstream.write(data)

    def sync(self) -> None:
        """Send a Sync whose ReadyForQuery goes to the client."""
        self.pipeline.expect(Ready(self.client.write, sync=True))
        self.send(messages.SYNC)

    async def leave(self) -> None:
        """The client takes its leave: the server answers what it was asked before that."""
        if self.pipeline.queue:
            self.send(messages.TERMINATE)
            with contextlib.suppress(SegmentFailed):
                await self._until_idle()

    async def end_own(self) -> None:
        """End the transaction that questions of ours began; the client has none, and hears nothing of it."""
        self.pipeline.expect(Ready(_unseen, sync=True))
        self.send(messages.SYNC)
        await self._until_idle()

    async def settle(self) -> None:
        """Return when every reply owed so far has gone its way.  Raises `SegmentFailed` if one of them was an error."""
        if self.pipeline.queue:
            self.send(messages.FLUSH)
            await self._until_idle()
        if self.pipeline.skipping:
            raise SegmentFailed

    async def ask(self, sql: str, bound: Bound = _UNBOUND) -> list[list[str | None]]:
        """Run `sql` in the client's transaction and keep its rows, as text.  Raises `UpstreamError`."""
        collect = Collect(frozenset(b"3"), self._future(), count=4)
        self.pipeline.expect(collect)
        self.send(self._prepared(sql, bound) + messages.execute(PRIVATE) + _CLOSE_PRIVATE + messages.FLUSH)
        await self.finish(collect)
        rows = (messages.read_data_row(body) for kind, body in collect.frames if kind == ord("D"))
        return [[None if value is None else value.decode(self.codec, "replace") for value in row] for row in rows]

    async def first(self, sql: str) -> list[str | None] | None:
        """The first row of what `ask` gives, None if there is none.  `sql` is all ours, so no error is at a place in the client's text."""
        try:
            rows = await self.ask(sql)
        except UpstreamError as problem:
            raise UpstreamError(problem.fields.without_place()) from None
        return rows[0] if rows else None

    async def hold_snapshot(self) -> None:
        """Let what follows, outside of a block, see one snapshot.  Must come before anything else of the transaction.

        SHOW and SET take none themselves; a transaction that is stricter already stays as it is.
        """
        ((isolation,),) = await self.ask("SHOW transaction_isolation")
        if isolation == "read committed":
            self.muted = b"\0C25P01\0"  # it has an effect, though it warns that there is no block
            try:
                await self.ask("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            finally:
                self.muted = b""

    async def copy_in(self, sql: str, data: AsyncIterator[bytes]) -> bytes:
        """Run a COPY … FROM STDIN with `data`; its command tag.  Raises `UpstreamError`."""
        opened = Collect(frozenset(b"G"), self._future())
        self.pipeline.expect(opened)
        self.send(self._prepared(sql, _UNBOUND) + messages.execute(PRIVATE) + messages.FLUSH)
        await self.finish(opened)
        closed = Collect(frozenset(b"3"), self._future(), count=2)
        self.pipeline.expect(closed)
        try:
            async for part in data:
                if closed.done.done():
                    break
                self.send(messages.copy_data(part))
                await self.upstream.drained()
        except BaseException:
            # A server that waits for rows hears of nothing else; one that waits for another session's lock does not hear that.
            self.send(messages.copy_fail() + messages.FLUSH)
            done, _ = await asyncio.wait([closed.done], timeout=PATIENCE)
            if not done:
                await self.cancel_upstream()
                await asyncio.wait([closed.done])
            self.stopped = isinstance(closed.done.exception(), UpstreamError)
            raise
        self.send(messages.copy_done() + _CLOSE_PRIVATE + messages.FLUSH)
        await self.finish(closed)
        return next(body for kind, body in closed.frames if kind == ord("C"))[:-1]

    async def parameter_types(self, name: bytes) -> tuple[int, ...]:
        """The types of a prepared statement's parameters."""
        (_, parameters), _ = await self._described(messages.describe(b"S", name))
        return messages.read_parameter_description(parameters)

    async def columns(self, sql: str, types: tuple[int, ...]) -> tuple[Column, ...] | None:
        """The columns of a query that is not run; None if it gives no rows."""
        parse = messages.parse(messages.Parse(PRIVATE, sql.encode(self.codec), types))
        *_, (kind, body) = await self._described(_CLOSE_PRIVATE + parse + messages.describe(b"S", PRIVATE))
        return messages.read_row_description(body) if kind == ord("T") else None

    async def describe(self, name: bytes) -> tuple[Column, ...] | None:
        """The columns of a prepared statement; None if it gives no rows."""
        *_, (kind, body) = await self._described(messages.describe(b"S", name))
        return messages.read_row_description(body) if kind == ord("T") else None

    async def _described(self, data: bytes) -> list[tuple[int, bytes]]:
        """The replies to `data`, which ends in a Describe of a statement: the parameters, then the columns (or that there are none)."""
        collect = Collect(frozenset(b"Tn"), self._future())
        self.pipeline.expect(collect)
        self.send(data + messages.FLUSH)
        await self.finish(collect)
        return collect.frames

    async def swallow(self, data: bytes, ends: bytes, count: int = 1) -> None:
        """Send messages of ours and drop their replies.  Raises `UpstreamError`."""
        collect = Collect(frozenset(ends), self._future(), count)
        self.pipeline.expect(collect)
        self.send(data + messages.FLUSH)
        await self.finish(collect)

    def rows(self, portal: bytes, limit: int, sink: Callable[[bytes], None]) -> Rows:
        """Execute a portal of ours; its rows go to `sink`, and `done` of what is returned resolves behind the last."""
        rows = Rows(_EXECUTE_ENDS, self._future(), sink)
        self.pipeline.expect(rows)
        self.send(messages.execute(portal, limit) + messages.FLUSH)
        return rows

    async def fail(self, error: ThanoError) -> None:
        """Tell the client, then make the server fail too: only so does its transaction end as ours did.

        A DO block that raises puts the true reason into the server's log; where DO is refused, that refusal fails it just as well.
        """
        shown = messages.error_response(error, encoding=self.codec)
        if self.stopped:
            # The server has failed already, because we asked it to stop sending rows for this statement.
            self.stopped = False
            self.client.write(shown)
            return
        await self.settle()
        self.client.write(shown)
        collect = Collect(frozenset(), self._future())
        self.pipeline.expect(collect)
        self.send(
            messages.close(b"S", PRIVATE)
            + messages.parse(messages.Parse(PRIVATE, store.fail_block(error).encode(self.codec, "replace")))
            + messages.bind(messages.Bind(PRIVATE, PRIVATE, b""))
            + messages.execute(PRIVATE)
            + messages.FLUSH
        )
        try:
            await collect.done
        except UpstreamError:
            return
        raise AssertionError("a DO block that raises cannot succeed")

    def forward(self, data: bytes, ends: frozenset[int], rewrite: Callable[[int, bytes], bytes] | None = None) -> None:
        """Send a message whose replies are the client's."""
        self.pipeline.expect(Forward(ends, self.client.write, rewrite))
        self.send(data)

    def notice(self, text: str, severity: str = "NOTICE", **fields: Any) -> None:
        """Tell the client something, if it wants to hear such things."""
        if severity not in _UNHEARD.get(self.client_min_messages, ()):
            self.client.write(messages.notice(text, severity=severity, encoding=self.codec, **fields))

    def refuse(self, fields: ErrorFields) -> None:
        """Show the client an error of the server's."""
        self.client.write(fields.encode())

    async def finish(self, collect: Collect) -> None:
        """Wait for the last reply, also where we are cancelled meanwhile: then the server is asked to stop, and its answer is awaited."""
        try:
            # Not the future itself: cancelling that would leave nobody to hear the end.
            await asyncio.wait([collect.done])
        except asyncio.CancelledError:
            if not collect.done.done():
                await self.cancel_upstream()
                await asyncio.wait([collect.done])
            self.stopped = isinstance(collect.done.exception(), UpstreamError)
            raise
        collect.done.result()

    def _prepared(self, sql: str, bound: Bound) -> bytes:
        parse = messages.Parse(PRIVATE, sql.encode(self.codec), bound.types)
        bind = messages.Bind(PRIVATE, PRIVATE, bound.parameters)
        return _CLOSE_PRIVATE + messages.parse(parse) + messages.bind(bind)

    def _future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    async def _until_idle(self) -> None:
        if not self.pipeline.closed:
            self._settled = self._future()
            try:
                await self._settled
            finally:
                self._settled = None
        if self.pipeline.closed:
            raise SegmentFailed

    def _idle(self) -> None:
        self._wake()
        self._on_idle()

    def _wake(self) -> None:
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)


def _ignore(_: int, __: bytes) -> None:
    pass


def _unseen(_: bytes) -> None:
    pass


async def _no_cancel() -> None:
    pass
