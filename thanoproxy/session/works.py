"""What is done at each statement of ours in a string of several, while `thanoproxy.session.script` follows the server through it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from thanoproxy.catalog import store
from thanoproxy.errors import InternalError, SyntaxProblem, ThanoError
from thanoproxy.session.collect import JobRun, job_run
from thanoproxy.session.decorate import RowStream, appended, completion, warn
from thanoproxy.session.execute import heeded, result_row
from thanoproxy.session.steps import Gate, Inner, Kept, Step, nowhere
from thanoproxy.session.summarise import EvaluateRun, answer_rows, summary_stream, write_answer
from thanoproxy.statements.shapes import Collect, Decorate, Decoration, Summarise, Summary, has_job
from thanoproxy.wire import messages
from thanoproxy.wire.messages import Column
from thanoproxy.wire.pipeline import UpstreamError

if TYPE_CHECKING:
    from thanoproxy.session.script import Run

__all__ = ["CollectWork", "DecorateWork", "RowsWork", "SummariseWork", "Work"]

_TICK = 1.0


class Work:
    """A statement of ours in the string: its steps and what happens at them."""

    shape: Decorate | Summarise | Collect

    def __init__(self, run: Run) -> None:
        codec = run.exchange.codec
        self._run = run
        self.exchange = run.exchange
        self.services = run.services
        self.settings, self.lookup = Kept(codec), Kept(codec)
        self.inner = Inner(self.begin)
        self.gate = Gate(self.passed, self.failed)
        self.job: JobRun | EvaluateRun | None = None

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
        if has_job(self.shape):
            self._run.attendant.audience.expect()
        try:
            await self._follow()
        finally:
            if self.job is not None:
                self.job.discard()

    async def _follow(self) -> None:
        stop = self._run.attendant.stop
        await asyncio.wait([self.settings.done])
        self.settings.done.result()
        try:
            async with stop.during(heeded(self.exchange, self.settings.rows)), stop.told(self._ended):
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
        await self.answer(order)
        await asyncio.wait([self.gate.done])
        self.gate.done.result()

    async def answer(self, order: bytes | None) -> None:
        """Let the server go on."""
        self.exchange.send((b"" if order is None else messages.copy_data(order)) + messages.copy_done())

    def refusal(self, problem: ThanoError) -> bytes:
        """What makes the server fail where it waits."""
        return messages.copy_data(store.gate_raise(problem)) + messages.copy_done()

    async def keep_open(self) -> None:
        """While the server waits at the gate, a row that does nothing now and then lets its own cancel arrive."""
        await self._reach(self.gate)
        while True:
            await asyncio.sleep(_TICK)
            self.exchange.send(messages.copy_data(store.gate_wait()))

    async def _ended(self, problem: ThanoError | UpstreamError) -> None:
        if self.job is not None:
            await self.job.failed(problem)

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
        self.exchange.send(self.refusal(problem))
        await asyncio.wait([self.gate.done])


class RowsWork(Work):
    """A statement whose rows go through the workers, in the stream that `begin` makes."""

    shape: Decorate | Summarise

    def __init__(self, run: Run, shape: Decorate | Summarise) -> None:
        super().__init__(run)
        self.shape = shape
        self.stream: RowStream | None = None

    @property
    def found(self) -> list[str | None] | None:
        """The model's row."""
        return self.lookup.rows[0] if self.lookup.rows else None

    def flow(self, stream: RowStream) -> Callable[[bytes], None]:
        """The inner query's rows go into `stream`; return by which way."""
        self.stream = stream
        self.inner.done.add_done_callback(stream.end)
        return stream.feed

    def evaluate(self, summary: Summary) -> Callable[[bytes], None]:
        """The inner query's rows are counted; return by which way."""
        stream = summary_stream(summary, self.services, self.exchange.upstream)
        self.job = EvaluateRun(summary, stream, self._run.attendant.audience)
        return self.flow(stream)

    async def work(self) -> bytes | None:
        assert self.stream is not None, "begun with the columns"
        try:
            await self.stream.run()
        except BaseException:
            self.stream.drop()
            raise
        self.check()
        self.inner.done.result()
        if isinstance(self.job, EvaluateRun):
            self.job.done()
        return None

    def check(self) -> None:
        """Raises where the server has failed meanwhile."""
        if self.gate.done.done():
            self.gate.done.result()

    def failed(self) -> None:
        if self.stream is not None:
            self.stream.drop()


class DecorateWork(RowsWork):
    """A PREDICT: its rows go on to the client."""

    def __init__(self, run: Run, shape: Decorate) -> None:
        super().__init__(run, shape)
        self.decorate = shape
        self._decoration: Decoration | None = None

    def begin(self, columns: tuple[Column, ...]) -> Callable[[bytes], None]:
        codec = self.exchange.codec
        decoration = self._decoration = self.decorate.open(self.found, columns, codec, self.services.seal)
        described = messages.row_description((*columns, *self.shape.columns(columns, codec)))
        self.exchange.client.write(described)
        return self.flow(RowStream(decoration, self.services.pool, self.exchange.upstream, self.exchange.client, appended(decoration)))

    async def work(self) -> bytes | None:
        await super().work()
        assert self._decoration is not None, "begun with the columns"
        warn(self._decoration, self.exchange)
        self.exchange.client.write(completion(self._decoration, self.inner.tag[5:-1]))
        return None


class SummariseWork(RowsWork):
    """An EVALUATE: its answer goes to the client once all of its rows have been seen."""

    def __init__(self, run: Run, shape: Summarise) -> None:
        super().__init__(run, shape)
        self.summarise = shape
        self._columns: tuple[Column, ...] = ()
        self._summary: Summary | None = None

    def begin(self, columns: tuple[Column, ...]) -> Callable[[bytes], None]:
        self._summary = self.summarise.open(self.found, columns, self.exchange.codec, self.services.seal)
        self._columns = self.shape.columns(columns, self.exchange.codec)
        return self.evaluate(self._summary)

    async def work(self) -> bytes | None:
        await super().work()
        assert self._summary is not None, "begun with the columns"
        self.exchange.client.write(messages.row_description(self._columns))
        await write_answer(
            self.exchange.client, answer_rows(self._columns, self._summary.answer(), (), self.exchange.codec), check=self.check
        )
        return None


class CollectWork(Work):
    """A BUILD, FIT, EXPORT or UPLOAD: its row goes to the client once the result is in the catalogue."""

    shape: Collect

    def __init__(self, run: Run, shape: Collect) -> None:
        super().__init__(run)
        self.shape = shape
        self._done = False
        self._log: asyncio.Task[None] | None = None

    def begin(self, columns: tuple[Column, ...]) -> Callable[[bytes], None]:
        found = self.lookup.rows[0] if self.lookup.rows else None
        work = self.shape.open(found, columns, self.exchange.codec, self.services.seal)
        run = self.job = job_run(work, self.services, self._run.attendant.audience)
        return run.feed

    async def work(self) -> bytes | None:
        run = self.job
        assert isinstance(run, JobRun), "begun with the columns"
        ticking = asyncio.create_task(self.keep_open())
        try:
            await run.fed(self.inner.done)
            await run.run()
        finally:
            ticking.cancel()
        self._done = True
        record = run.record()
        return None if record is None else store.gate_register(record)

    def passed(self) -> None:
        """The result is in the catalogue."""
        run = self.job
        assert isinstance(run, JobRun), "the gate opens behind the rows"
        row = result_row(self.shape, run.summary(), (), self.exchange.codec)
        columns = messages.row_description(self.shape.result)
        self.exchange.client.write(columns + row + messages.command_complete(self.shape.tag))
        self._log = asyncio.create_task(run.registered())

    def failed(self) -> None:
        if self._run.current is self:
            self._run.attendant.stop.abandon()
        if self.job is not None and self._done:
            self._log = asyncio.create_task(self.job.failed(InternalError("the result could not be registered")))
