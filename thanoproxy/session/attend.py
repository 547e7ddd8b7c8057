"""The state machine of a session that has a statement of ours in flight.

Most of the time a session is a relay (`thanoproxy.session.relay`): bytes in, bytes out.  When the walk over the client's bytes stops
at a message that may be ours, the relay hands both directions to an `Attendant`, which treats messages one by one until nothing of
ours is left in flight, and then hands them back.

The pieces
    inbox       the client's messages, taken in order by one task (`run`); a message is handled to its end before the next is looked at
    exchange    the server's messages, disposed of as they come by the queue of replies still owed (`thanoproxy.wire.pipeline`)
    statements  prepared statements of ours by the client's name; portals likewise, until the transaction ends

The rules
    1. Nothing of the client's goes upstream between our Execute and the last row of its answer.
    2. Waiting is done with Flush, never Sync: only the client's own Sync may commit.
    3. ReadyForQuery and the status in it are always the server's own.
    4. A failure of ours is told to the client, then the server is made to fail as well, and from there to the client's Sync both
       sides discard (`pipeline.skipping`): its transaction ends as ours did.
    5. A lone statement of ours in a simple Query runs through the extended protocol, which is the same to the client and can fail
       before it commits; a string of several statements stays one Query (`thanoproxy.session.script`).
    6. A cancel is bound to the statement in progress (`Stop`), so a late one hits nothing.

Given up: a BUILD or PREDICT whose client half-closes its connection is stopped, though PostgreSQL would finish a query; we cannot
tell it from a client that went away, and hours of training for nobody are the worse mistake.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from thanoproxy.catalog import store
from thanoproxy.catalog.quote import literal
from thanoproxy.errors import FeatureNotSupported, ProtocolViolation, SyntaxProblem, ThanoError
from thanoproxy.session import keeping, saved
from thanoproxy.session.byname import may_name, refuse_by_name, run_prepare, written_out
from thanoproxy.session.exchange import PRIVATE, Bound, Exchange
from thanoproxy.session.execute import Identity, Stop, collect, decorate, open_decoration, result_row, statement_timeout, summarise
from thanoproxy.session.importing import run_import
from thanoproxy.session.leftovers import Leftovers
from thanoproxy.session.lone import run_lone
from thanoproxy.session.materialise import Refused, explained, materialise, refusing
from thanoproxy.session.prepared import PortalOfOurs, StatementOfOurs, bind_formats, with_formats
from thanoproxy.session.reading import Reader
from thanoproxy.session.reporting import Audience
from thanoproxy.session.retag import retag
from thanoproxy.session.script import refuse_parameters, refuse_together, run_script
from thanoproxy.session.services import Services
from thanoproxy.session.summarise import answer_rows, write_answer
from thanoproxy.session.trust import check_catalogue
from thanoproxy.sql.source import Source
from thanoproxy.statements import Part
from thanoproxy.statements.shapes import (
    Collect,
    Decorate,
    Import,
    Nested,
    Prepare,
    Refresh,
    Rewrite,
    Save,
    SaveRows,
    Saving,
    Shape,
    Summarise,
    applying,
    has_job,
)
from thanoproxy.wire import messages
from thanoproxy.wire.framing import HEADER
from thanoproxy.wire.messages import ErrorFields
from thanoproxy.wire.pipeline import REPLY_ENDS, Forward, Ready, Segment, SegmentFailed, UpstreamError

__all__ = ["Attendant"]

_Named = TypeVar("_Named")
_INBOX_LIMIT = 1 << 20
_IDLE, _FAILED = b"IE"


class ClientGone(Exception):
    """The client closed its side while a message of its was being attended to."""


class Attendant:
    """Attends to one session's messages while anything of ours is in flight on it."""

    def __init__(self, exchange: Exchange, services: Services, identity: Identity, stop: Stop, reader: Reader) -> None:
        self.exchange = exchange
        self.services = services
        self.identity = identity
        self.stop = stop
        self.statements: dict[bytes, StatementOfOurs] = {}
        self.portals: dict[bytes, PortalOfOurs] = {}
        self.leftovers = Leftovers()
        self.audience = Audience(services.log, identity, exchange)
        self._explained: dict[bytes, Callable[[int, bytes], bytes]] = {}
        self.inbox = bytearray()
        self.eof = False
        self.observe: Callable[[int, bytes], None] = lambda _kind, _frame: None
        self.reader = reader
        self.expansion: Source | None = None
        self._synced = self._fresh = True
        self._waiting: asyncio.Future[None] | None = None
        self._handlers: dict[int, Callable[[bytes], Awaitable[None]]] = {
            ord("Q"): self._query,
            ord("P"): self._parse,
            ord("B"): self._bind,
            ord("D"): self._describe,
            ord("E"): self._execute,
            ord("C"): self._close,
            ord("S"): self._sync,
            ord("H"): self._plain,
            ord("F"): self._function_call,
        }
        exchange.watch = self._watch

    # Bytes in.

    def receive(self, data: bytes) -> None:
        """Bytes from the client."""
        self.inbox += data
        if len(self.inbox) > _INBOX_LIMIT and not self._waiting:
            self.exchange.client.hold("inbox")
        self.wake()

    def ended(self) -> None:
        """The client closed its side; what it sent before is still attended to."""
        self.eof = True
        self.stop("the client's end of the connection")
        self.wake()

    def wake(self) -> None:
        """Something changed that `run` may be waiting for."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def begin(self, owed_ready: bytes, unsynced: int, closes: int, failed: bool) -> None:
        """Take over from the relay: expect what it had sent and not seen answered."""
        pipeline = self.exchange.pipeline
        for kind in owed_ready:
            if kind != ord("c"):
                pipeline.expect(Ready(self.exchange.client.write, sync=kind == ord("S")))
        if pipeline.status == _IDLE and not unsynced and not owed_ready:
            self.portals.clear()
        if unsynced and failed:
            pipeline.skipping = True
        elif unsynced:
            # A Close that nobody else sent marks where the replies to unseen messages end.
            pipeline.expect(Segment(closes, self.exchange.client.write))
            self.exchange.send(messages.close(b"S", PRIVATE) + messages.FLUSH)
        self._synced = not unsynced

    # The client's messages, one by one.

    async def run(self) -> None:
        """Attend until nothing of ours is in flight.  Raises `ClientGone` when the client went away meanwhile."""
        while (frame := await self._next()) is not None:
            kind = frame[0]
            if kind == ord("X"):
                await self.exchange.leave()
                raise ClientGone
            if self.exchange.pipeline.skipping and kind != ord("S"):
                continue
            self._fresh, self._synced = self._synced, kind in b"QS"
            self.expansion = None
            try:
                await self._handlers.get(kind, self._plain)(frame)
            except SegmentFailed:
                continue
            except Refused as refused:
                self.exchange.refuse(refused.fields)
            except UpstreamError as problem:
                self.exchange.refuse(self.translated(problem.fields, None))
            except ThanoError as problem:
                await self.fail(problem)

    async def _next(self) -> bytes | None:
        """The client's next message; None once the relay can take over again."""
        while True:
            if len(self.inbox) >= 5:
                _, length = HEADER.unpack_from(self.inbox)
                if length < 4:
                    raise ClientGone
                if len(self.inbox) > length:
                    frame = bytes(self.inbox[: length + 1])
                    del self.inbox[: length + 1]
                    if len(self.inbox) < _INBOX_LIMIT:
                        self.exchange.client.release("inbox")
                    return frame
            if self._synced and not self.exchange.pipeline.queue:
                return None
            if self.eof and not self.exchange.pipeline.queue:
                raise ClientGone
            self.exchange.client.release("inbox")
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None

    async def copy_in(self) -> None:
        """Relay the client's COPY data up to its end."""
        while (frame := await self._next()) is not None:
            self.exchange.send(frame)
            if frame[0] in b"cf":
                return

    async def _plain(self, frame: bytes) -> None:
        """Flush, and what belongs to a COPY: nothing is owed for it."""
        self.exchange.send(frame)

    async def _sync(self, frame: bytes) -> None:
        self.exchange.sync()

    async def _function_call(self, frame: bytes) -> None:
        self.exchange.pipeline.expect(Ready(self.exchange.client.write, sync=False))
        self.exchange.send(frame)

    async def _query(self, frame: bytes) -> None:
        """A simple Query: it destroys the unnamed statement and portal, whatever it says."""
        self.statements.pop(b"", None)
        self.portals.pop(b"", None)
        await self._settled()
        try:
            written = await self._query_text(frame)
            text = await self._expanded(written)
            parts = await self._recognised(text)
            if parts is not None:
                await check_catalogue(self)
            await refuse_by_name(self, text)
            refuse_together(parts or ())
            refuse_parameters(text.decode(self.exchange.codec, "replace"), parts or ())
        except ThanoError as problem:
            await self.fail(problem)
            self.exchange.sync()
            return
        except UpstreamError as problem:
            self.exchange.refuse(problem.fields.with_position(None))
            self.exchange.sync()
            return
        if parts is None:
            self.exchange.pipeline.expect(Ready(self.exchange.client.write, sync=False))
            self.exchange.send(frame)
        elif len(parts) > 1 or parts[0].shape is None:
            await run_script(self, text.decode(self.exchange.codec), parts)
        elif isinstance(parts[0].shape, Prepare):
            await run_prepare(self, parts[0].shape)
        else:
            await run_lone(self, parts[0].shape, first=text is not written or written == frame[5:-1])

    async def _query_text(self, frame: bytes) -> bytes:
        """The text of a Query; an EXECUTE of ours is that statement, written out."""
        text = frame[5:-1]
        if self.statements and b"EXECUTE" in text.upper():
            written = await written_out(self, text.decode(self.exchange.codec, "replace"))
            if written is not None:
                self.expansion = written
                return written.text.encode(self.exchange.codec)
        return text

    async def _expanded(self, text: bytes) -> bytes:
        """The text with the views in it that hold predictions written out."""
        if self.exchange.pipeline.status == _FAILED:
            return text
        await self.reader.names.known()
        decoded, found = self.reader.mentions(text)
        if found:
            async with self.aside():
                expansion = await saved.written_out(self, decoded, found)
            if expansion is not None:
                expansion.outer, self.expansion = self.expansion, expansion
                return expansion.text.encode(self.exchange.codec)
        return text

    async def _recognised(self, text: bytes) -> list[Part] | None:
        """As `Reader.read`; of a REFRESH, the server says whether it concerns us."""
        parts = self.reader.read(text)
        if parts is not None and len(parts) == 1 and isinstance(parts[0].shape, Refresh):
            await self.reader.names.known()
            if self.exchange.pipeline.status == _FAILED or not self.reader.names.catalogue:
                return None
            async with self.aside():
                return parts if await self.exchange.ask(store.saved_rows(parts[0].shape.name)) else None
        return parts

    async def time_limit(self) -> float:
        """The client's statement_timeout before anything of a Query is sent, 0 where it cannot be asked for."""
        if self.exchange.pipeline.status == _FAILED:
            return 0
        async with self.aside():
            return await statement_timeout(self.exchange)

    @asynccontextmanager
    async def aside(self) -> AsyncIterator[None]:
        """Questions to the server that leave no transaction behind where the client has none: what it sends may not find itself in one
        (VACUUM, isolation levels)."""
        await self._settled()
        alone = self._fresh and self.exchange.pipeline.status == _IDLE
        try:
            yield
        finally:
            if alone and not self.exchange.pipeline.skipping:
                await self.exchange.end_own()

    async def _parse(self, frame: bytes) -> None:
        try:
            parse = messages.read_parse(frame[5:])
        except ProtocolViolation:
            self._forward(frame)  # the server says what is wrong with it
            return
        text = await self._expanded(parse.text)
        parts = await self._recognised(text)
        if parts is None:
            await refuse_by_name(self, text)
            self._forward(frame, _set(self.statements, parse.name, None))
            return
        await check_catalogue(self)
        if isinstance(parts[0].shape, Prepare):
            raise FeatureNotSupported("PREPARE of a PREDICT must be sent as a simple query", hint="Drivers prepare it without PREPARE.")
        if len(parts) > 1 or parts[0].shape is None:
            raise SyntaxProblem("cannot insert multiple commands into a prepared statement")
        ours = StatementOfOurs(parts[0].shape, self.exchange.codec, body=text.decode(self.exchange.codec), expansion=self.expansion)
        if isinstance(ours.shape, SaveRows | Refresh):
            ours.given = await keeping.planned(self, ours.shape)
        elif isinstance(ours.shape, Save):
            await saved.check(self, ours.shape)
        else:
            await self.check_model(ours.shape)
        self._forward(
            messages.parse(messages.Parse(parse.name, ours.text, parse.types)),
            _set(self.statements, parse.name, ours),
            source=ours.source,
        )

    async def _bind(self, frame: bytes) -> None:
        try:
            bind = messages.read_bind(frame[5:])
        except ProtocolViolation:
            self._forward(frame)
            return
        ours = await self.ours(bind.statement)
        if ours is None:
            self._forward(frame, _set(self.portals, bind.portal, None))
            return
        self.expansion = ours.expansion
        if isinstance(ours.shape, Save):
            await self.announce(ours.shape)
        elif isinstance(ours.shape, SaveRows | Refresh):
            async with self.stop.during(await statement_timeout(self.exchange)):
                self.leftovers.done((await keeping.keep(self, ours.shape)).tables)
        if isinstance(ours.shape, Nested):
            await self._bind_nested(ours.shape, bind)
            return
        if not isinstance(ours.shape, Rewrite | Saving):
            await self.describe_inner(ours, bind.statement)
        formats = bind_formats(ours, bind.result_formats)
        portal = PortalOfOurs(ours, bind.result_formats)
        portal.inner = with_formats(ours, formats)
        self._forward(
            messages.bind(messages.Bind(bind.portal, bind.statement, bind.parameters, formats)),
            _set(self.portals, bind.portal, portal),
            source=ours.source,
        )

    async def _bind_nested(self, shape: Nested, bind: messages.Bind) -> None:
        """The work is done here: from then on the portal is PostgreSQL's own, with its row limits and its tag."""
        await self._settled()
        await self.leftovers.clear(self.exchange, bind.portal)
        async with self.running(shape):
            bound = Bound(await self.exchange.parameter_types(bind.statement), bind.parameters)
            if bound.values != len(bound.types):
                named = f'prepared statement "{bind.statement.decode(self.exchange.codec, "replace")}"'
                raise ProtocolViolation(f"bind message supplies {bound.values} parameters, but {named} requires {len(bound.types)}")
            source, bound, tables, lines = await materialise(self, shape, bound)
        name = self.leftovers.add(bind.portal, () if shape.outlives else tables)
        await self.swallow(messages.parse(messages.Parse(name, source.text.encode(self.exchange.codec), bound.types)), source)
        self._forward(
            messages.bind(messages.Bind(bind.portal, name, bound.parameters, bind.result_formats)),
            _set(self.portals, bind.portal, None),
            source,
        )
        self._explained[bind.portal] = explained(lines, source, self)

    async def swallow(self, parse: bytes, source: Source) -> None:
        """Prepare `source`.  Raises `Refused`."""
        with refusing(self, source):
            await self.exchange.swallow(parse, b"1")

    async def _describe(self, frame: bytes) -> None:
        kind, name = frame[5:6], frame[6:-1]
        ours, formats = None, tuple[int, ...]()
        if kind == b"S":
            ours = await self.ours(name)
        elif name in self.portals:
            ours, formats = self.portals[name].statement, self.portals[name].formats
        if ours is None or isinstance(ours.shape, Rewrite | Nested | Saving):
            self._forward(frame, source=None if ours is None else ours.source)
            return
        await self.describe_inner(ours, name if kind == b"S" else None)
        described, shown = ours, formats

        def rewrite(reply: int, answer: bytes) -> bytes:
            if reply not in b"Tn":
                return answer
            if isinstance(described.shape, Import):
                return messages.NO_DATA
            return messages.row_description(described.described(messages.read_row_description(answer[5:]), shown))

        self.exchange.forward(frame, REPLY_ENDS[ord("D")], rewrite)

    async def _execute(self, frame: bytes) -> None:
        name, pos = messages.read_string(frame[5:], 0)
        limit = int.from_bytes(frame[5 + pos : 9 + pos], "big")
        portal = self.portals.get(name)
        if portal is None:
            self.exchange.forward(frame, REPLY_ENDS[ord("E")], self._explained.pop(name, None))
            return
        shape = portal.statement.shape
        self.expansion = portal.statement.expansion
        if isinstance(shape, Saving):
            self._forward(frame, source=portal.statement.source)
            return
        if isinstance(shape, Rewrite):
            self.exchange.forward(frame, REPLY_ENDS[ord("E")], retag(shape, self.exchange.codec))
            return
        await self._settled()
        try:
            async with self.running(shape):
                await self.execute_ours(shape, name, limit, portal)
        except UpstreamError as problem:
            self.exchange.refuse(self.translated(problem.fields, portal.statement.source))

    async def execute_ours(self, shape: Shape, name: bytes, limit: int, portal: PortalOfOurs) -> None:
        if isinstance(shape, Decorate):
            if limit:
                shape.must_keep_rows("a row limit")
            if portal.decoration is None:
                portal.decoration = await open_decoration(self.exchange, self.services, shape, portal.inner)
                portal.decoration.formats = portal.added_formats
                if portal.announce:
                    self.exchange.client.write(messages.row_description(portal.statement.described(portal.inner)))
            await decorate(self.exchange, self.services, portal.decoration, name, limit, self.stop)
        elif isinstance(shape, Summarise):
            if portal.answer is None:
                summary = await summarise(self.exchange, self.services, shape, portal.inner, name, self.audience, self.stop)
                columns = portal.statement.described(portal.inner, portal.formats)
                portal.answer = answer_rows(columns, summary.answer(), portal.formats, self.exchange.codec)
                if portal.announce:
                    self.exchange.client.write(messages.row_description(columns))
            await write_answer(self.exchange.client, portal.answer, limit)
        elif isinstance(shape, Collect):
            reserved = await self.exchange.first(shape.lookup())
            values = await collect(self.exchange, self.services, shape, reserved, portal.inner, name, self.audience, self.stop)
            self.portals.pop(name, None)
            if portal.announce:
                self.exchange.client.write(messages.row_description(shape.result))
            row = result_row(shape, values, portal.formats, self.exchange.codec)
            self.exchange.client.write(row + messages.command_complete(shape.tag))
        elif isinstance(shape, Import):
            tag = await run_import(self, shape)
            await self.exchange.swallow(messages.close(b"P", name), b"3")
            self.portals.pop(name, None)
            self.exchange.client.write(messages.command_complete(tag))

    async def _close(self, frame: bytes) -> None:
        kind, name = frame[5:6], frame[6:-1]
        (self.statements if kind == b"S" else self.portals).pop(name, None)
        self._forward(frame)

    # What the handlers share.

    @asynccontextmanager
    async def running(self, shape: Shape) -> AsyncIterator[None]:
        """The statement, which may be stopped; its client is kept informed where it is one for that."""
        async with self.stop.during(await statement_timeout(self.exchange)), self.audience.informed(has_job(shape)):
            yield

    async def announce(self, shape: Save) -> None:
        """There will be a view that holds predictions: for this front from now on, for others once it is committed."""
        self.reader.names.add([shape.name])
        await self.exchange.ask(store.view_saved())

    async def check_model(self, shape: Shape) -> None:
        """A model that does not exist is known when the statement is prepared, as a table would be."""
        for statement in applying(shape):
            if await self.exchange.first(statement.lookup()) is None:
                statement.open(None, (), self.exchange.codec, self.services.seal)

    async def describe_inner(self, ours: StatementOfOurs, name: bytes | None) -> None:
        """Learn the inner columns once; what is wrong with them is wrong now, before anything runs."""
        if ours.inner is None and name is not None:
            columns = await self.exchange.describe(name)
            if columns is None:
                assert not isinstance(ours.shape, Rewrite | Nested | Saving), "these have no inner query"
                raise SyntaxProblem("the query after AS returns no rows", position=ours.shape.inner.start + 1)
            ours.inner = columns
            try:
                ours.check()
            except ThanoError:
                ours.inner = None
                raise

    async def ours(self, name: bytes) -> StatementOfOurs | None:
        """The statement of ours that has this name upstream at this moment."""
        ours = self.statements.get(name)
        if ours is None or not name:
            return ours
        quoted = literal(name.decode(self.exchange.codec, "replace"))
        await self._settled()
        found = await self.exchange.ask(
            "SELECT s.statement FROM pg_catalog.pg_prepared_statements s "  # noqa: S608 - a quoted literal
            f"WHERE s.name OPERATOR(pg_catalog.=) {quoted}::pg_catalog.text"
        )
        if found and ours.marker in (found[0][0] or ""):
            return ours
        del self.statements[name]
        return None

    async def _settled(self) -> None:
        await self.exchange.settle()

    async def fail(self, error: ThanoError) -> None:
        if error.position is not None and self.expansion is not None:
            error.position = self.expansion.position(error.position)
        try:
            await self.exchange.fail(error)
        except SegmentFailed:
            return  # an earlier message failed first, and that error is what the client has seen

    def _forward(self, data: bytes, undo: Callable[[], None] | None = None, source: Source | None = None) -> None:
        """Send a message whose reply is the client's; `undo` takes back what was assumed, if the server refuses it."""
        if source is not None:
            self.traced(source)

        def rewrite(kind: int, frame: bytes) -> bytes:
            if kind == ord("E") and source is not None:
                return self.translated(messages.read_error(frame[5:]), source).encode()
            return frame

        self.exchange.pipeline.expect(Forward(REPLY_ENDS[data[0]], self.exchange.client.write, rewrite, undo))
        self.exchange.send(data)

    def translated(self, fields: ErrorFields, source: Source | None) -> ErrorFields:
        """An error of the server's about text of ours, as an error about the client's text."""
        missing = store.not_installed(fields.sqlstate, fields.text, self.identity.database)
        if missing is not None:
            return messages.read_error(messages.error_response(missing, encoding=self.exchange.codec)[5:])
        if source is None or fields.position is None:
            return fields.with_position(None)
        return fields.with_position(self.traced(source).position(fields.position))

    def traced(self, source: Source) -> Source:
        """`source`, made of the text that is being attended to, with the way back to what the client wrote."""
        source.outer = source.outer or self.expansion
        return source

    def concerns(self, kind: int, data: bytes, start: int, end: int) -> bool:
        """Whether a message that the relay is about to pass on uses a name that stands for a statement or portal of ours."""
        if kind == ord("Q"):
            return b"" in self.statements or b"" in self.portals or may_name(self, data[start:end])
        if kind == ord("P"):
            return _string(data, start, end) in self.statements or may_name(self, data[start:end])
        if kind == ord("B"):
            portal = _string(data, start, end)
            return portal in self.portals or _string(data, start + len(portal) + 1, end) in self.statements
        if kind in b"DC":
            return _string(data, start + 1, end) in (self.statements if data[start] == ord("S") else self.portals)
        return kind == ord("E") and _string(data, start, end) in self.portals

    def _watch(self, kind: int, frame: bytes) -> None:
        self.observe(kind, frame)
        if kind == ord("Z"):
            if frame[5] == _IDLE:
                self.portals.clear()
                self.leftovers.committed()
                self._explained.clear()
            self.wake()


def _set(names: dict[bytes, _Named], name: bytes, named: _Named | None) -> Callable[[], None]:
    """Assume that the server will accept a name, since the messages behind it come without waiting; returns how to take that back."""
    before = names.pop(name, None)
    if named is not None:
        names[name] = named

    def undo() -> None:
        names.pop(name, None)
        if before is not None:
            names[name] = before

    return undo


def _string(data: bytes, start: int, end: int) -> bytes:
    stop = data.find(b"\0", start, end)
    return data[start:stop] if stop >= 0 else b""
