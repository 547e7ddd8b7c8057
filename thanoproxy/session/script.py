"""Several statements in one simple Query, some of them ours: it stays ONE Query.

Each statement of ours is replaced by its lookup, its inner query, and `COPY thanosql.gate FROM STDIN`.  The server stops there and
waits for us (protocol-flow.html#PROTOCOL-COPY): an end of the copy lets the rest of the string run, a row that raises fails the
whole string with our SQLSTATE.  So the syntax check of the whole string, LOCK, VACUUM, SET LOCAL, timestamps, BEGIN and COMMIT inside
and rollback are the server's own; sending the pieces one by one would not be the same (docs/architecture.md).

    client   INSERT …;            PREDICT …                                   ; SELECT 2
    server   INSERT …; <timeout>; <lookup>; <inner query>; COPY thanosql.gate ; SELECT 2
    steps    Relayed   Kept       Kept      Inner          Gate                 Relayed

Replies come in the order of the steps; each step knows its own (`take`), and the coroutine `run_script` follows behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from thanoproxy.catalog import store
from thanoproxy.errors import Canceled, FeatureNotSupported, InternalError, SyntaxProblem, ThanoError
from thanoproxy.session.collect import TrainingRun
from thanoproxy.session.decorate import RowStream
from thanoproxy.session.execute import result_row, seconds_of
from thanoproxy.session.retag import retag
from thanoproxy.session.steps import Gate, Inner, Kept, Relayed, Script, Step, nowhere
from thanoproxy.sql.source import Source
from thanoproxy.statements import Part
from thanoproxy.statements.shapes import Collect, Decorate, Nested, Rewrite
from thanoproxy.wire import messages
from thanoproxy.wire.messages import Column, ErrorFields
from thanoproxy.wire.pipeline import SegmentFailed, UpstreamError
from thanoproxy.workers import jobs

if TYPE_CHECKING:
    from thanoproxy.session.attend import Attendant

__all__ = ["refuse_together", "run_script"]

_TIMEOUT = "SELECT pg_catalog.current_setting('statement_timeout')"
_READ_ONLY = "25006"
_TICK = 1.0


async def run_script(attendant: Attendant, text: str, parts: Sequence[Part]) -> None:
    """Send the string and see it through; its ReadyForQuery has been relayed, or is on its way, when this returns."""
    await _Run(attendant, text, parts).run()


def refuse_together(parts: Sequence[Part]) -> None:
    """Raises for what may not share a string with other statements."""
    for part in parts:
        if isinstance(part.shape, Nested) and len(parts) > 1:
            raise FeatureNotSupported(
                "a PREDICT inside another statement cannot share a string with others yet",
                hint="Send the statement by itself.",
                position=part.shape.holes[0].start + 1,
            )


class _Run:
    """One string on its way."""

    def __init__(self, attendant: Attendant, text: str, parts: Sequence[Part]) -> None:
        self.attendant = attendant
        self.exchange = attendant.exchange
        self.services = attendant.services
        self.source = Source()
        self.script = Script(self.exchange.client.write, self._show)
        self.works: list[_DecorateWork | _CollectWork | Relayed] = []
        self.current: _DecorateWork | _CollectWork | None = None
        at = 0
        for part in parts:
            self.source.add(text[at : part.start], at)
            self._add(part, text)
            at = part.end
        self.source.add(text[at:], at)

    async def run(self) -> None:
        self.exchange.pipeline.expect(self.script)
        self.exchange.send(messages.query(self.source.text.encode(self.exchange.codec)))
        try:
            for work in self.works:
                if isinstance(work, Relayed):
                    await self._relay(work)
                else:
                    self.current = work
                    await work.run()
        except (UpstreamError, SegmentFailed):
            return

    def _add(self, part: Part, text: str) -> None:
        if part.shape is None or isinstance(part.shape, Rewrite):
            rewritten = part.shape
            self.source.add(*((text[part.start : part.end], part.start) if rewritten is None else (rewritten.sql, None)))
            step = Relayed(self.exchange.client.write, retag(None if rewritten is None else rewritten.tag))
            self.script.steps.append(step)
            self.works.append(step)
            return
        assert not isinstance(part.shape, Nested), "refused before"
        work = _DecorateWork(self, part.shape) if isinstance(part.shape, Decorate) else _CollectWork(self, part.shape)
        self.source.add(f"{_TIMEOUT};\n{part.shape.lookup()};\n")
        self.source.add(part.shape.inner.text, part.shape.inner.start)
        self.source.add(f";\n{store.GATE}")
        self.script.steps += [work.timeout, work.lookup, work.inner, work.gate]
        self.works.append(work)

    async def _relay(self, step: Relayed) -> None:
        await step.moved.wait()
        if step.copying:
            await self.attendant.copy_in()
        await asyncio.wait([step.done])
        step.done.result()

    def _show(self, frame: bytes, step: Step | None) -> None:
        fields = messages.read_error(frame[5:])
        if isinstance(step, Gate) and fields.sqlstate == _READ_ONLY:
            error = FeatureNotSupported(
                "in a read-only transaction this statement cannot share a string with others", hint="Send it by itself."
            )
            self.exchange.client.write(messages.error_response(error, encoding=self.exchange.codec))
            return
        missing = store.not_installed(fields.sqlstate, fields.text, self.attendant.identity.database)
        if missing is not None:
            self.exchange.client.write(messages.error_response(missing, encoding=self.exchange.codec))
            return
        position = None if fields.position is None else self.source.position(fields.position)
        self.exchange.client.write(ErrorFields(fields.with_position(position).fields).encode())


class _Work:
    """A statement of ours in the string: its four steps and what happens at them."""

    def __init__(self, run: _Run) -> None:
        codec = run.exchange.codec
        self._run = run
        self.exchange = run.exchange
        self.services = run.services
        self.timeout, self.lookup = Kept(codec), Kept(codec)
        self.inner = Inner(self.begin)
        self.gate = Gate(self.passed, self.failed)

    def begin(self, columns: tuple[Column, ...]) -> Callable[[bytes], None]:
        """The inner query's columns are known; return where its rows go."""
        raise NotImplementedError

    async def work(self) -> bytes | None:
        """From the first row to the answer; the row to copy into the gate, if any."""
        raise NotImplementedError

    def passed(self) -> None:
        """The gate has closed behind this statement."""

    def failed(self) -> None:
        """The string has failed: nothing of this statement may reach the client any more."""

    async def run(self) -> None:
        stop = self._run.attendant.stop
        await asyncio.wait([self.timeout.done])
        self.timeout.done.result()
        try:
            async with stop.during(seconds_of(self.timeout.rows[0][0] or "0")):
                await self._reach(self.inner)
                if self.inner.problem is not None:
                    raise self.inner.problem
                if not self.inner.described:
                    raise SyntaxProblem("the query after AS returns no rows")
                order = await self.work()
        except ThanoError as problem:
            await self._fail(problem)
            return
        await self._reach(self.gate)
        self.exchange.send((b"" if order is None else messages.copy_data(order)) + messages.copy_done())
        await asyncio.wait([self.gate.done])
        self.gate.done.result()

    async def keep_open(self) -> None:
        """While the server waits at the gate, a row that does nothing now and then lets its own cancel arrive."""
        await self._reach(self.gate)
        while True:
            await asyncio.sleep(_TICK)
            self.exchange.send(messages.copy_data(store.gate_wait()))

    async def _reach(self, step: Step) -> None:
        await step.moved.wait()
        if step.done.done():
            step.done.result()

    async def _fail(self, problem: ThanoError) -> None:
        """Our error to the client; then fail the string where the server stands: in the inner query, or at the gate."""
        if self.gate.done.done():
            return  # the server failed first, and the client has seen its error
        self.inner.sink = nowhere
        self._run.script.own_error = True
        self.exchange.client.write(messages.error_response(problem, encoding=self.exchange.codec))
        if not self.inner.done.done():
            await self._run.attendant.stop.cancel_upstream()
        await self._reach(self.gate)
        self.exchange.send(messages.copy_data(store.gate_raise(problem)) + messages.copy_done())
        await asyncio.wait([self.gate.done])


class _DecorateWork(_Work):
    def __init__(self, run: _Run, shape: Decorate) -> None:
        super().__init__(run)
        self.shape = shape
        self.stream: RowStream | None = None

    def begin(self, columns: tuple[Column, ...]) -> Callable[[bytes], None]:
        found = self.lookup.rows[0] if self.lookup.rows else None
        codec = self.exchange.codec
        decoration = self.shape.open(found, columns, codec, self.services.seal)
        described = messages.row_description((*columns, *self.shape.columns(columns, codec)))
        self.stream = RowStream(decoration, self.services.pool, self.exchange.upstream, self.exchange.client)
        self.inner.done.add_done_callback(self.stream.end)
        self.exchange.client.write(described)
        return self.stream.feed

    async def work(self) -> bytes | None:
        assert self.stream is not None, "begun with the columns"
        try:
            await self.stream.run()
        except BaseException:
            self.stream.drop()
            raise
        if self.gate.done.done():
            self.gate.done.result()
        self.inner.done.result()
        self.exchange.client.write(self.inner.tag)
        return None

    def failed(self) -> None:
        if self.stream is not None:
            self.stream.drop()


class _CollectWork(_Work):
    def __init__(self, run: _Run, shape: Collect) -> None:
        super().__init__(run)
        self.shape = shape
        self.training: TrainingRun | None = None
        self._built: jobs.Built | None = None
        self._log: asyncio.Task[None] | None = None

    def begin(self, columns: tuple[Column, ...]) -> Callable[[bytes], None]:
        found = self.lookup.rows[0] if self.lookup.rows else None
        training = self.shape.open(found, columns, self.exchange.codec, self.services.seal)
        identity = self._run.attendant.identity
        self.training = TrainingRun(training, self.services, identity.database, identity.backend_pid)
        return self.training.feed

    async def work(self) -> bytes | None:
        run = self.training
        assert run is not None, "begun with the columns"
        ticking = asyncio.create_task(self.keep_open())
        try:
            await asyncio.wait([self.inner.done])
            self.inner.done.result()
            return await self._train(run)
        finally:
            ticking.cancel()
            run.discard()

    async def _train(self, run: TrainingRun) -> bytes:
        codec = self.exchange.codec
        try:
            built = await run.run(lambda text: self.exchange.client.write(messages.notice(text, encoding=codec)))
        except ThanoError as problem:
            await run.failed(problem)
            raise
        except asyncio.CancelledError:
            await asyncio.shield(run.failed(Canceled("canceling statement due to user request")))
            raise
        self._built = built
        return store.gate_register(run.training.record(built))

    def passed(self) -> None:
        """The result is in the catalogue."""
        run, built = self.training, self._built
        assert run is not None, "the gate opens behind the rows"
        assert built is not None, "the gate closes behind the job"
        row = result_row(self.shape, run.training.summary(built), (), self.exchange.codec)
        columns = messages.row_description(self.shape.result)
        self.exchange.client.write(columns + row + messages.command_complete(self.shape.tag))
        self._log = asyncio.create_task(run.registered(built))

    def failed(self) -> None:
        if self._run.current is self:
            self._run.attendant.stop.abandon()
        if self.training is not None and self._built is not None:
            self._log = asyncio.create_task(self.training.failed(InternalError("the result could not be registered")))
