"""A BUILD or FIT from its rows to its result: spool, job, progress to the client and to everybody else.

EXPORT and UPLOAD are jobs without rows.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import aclosing
from typing import Any

from msgspec import structs

from thanoproxy.catalog.records import ModelRecord
from thanoproxy.errors import DuplicateFile, FileUnavailable, ThanoError
from thanoproxy.session.reporting import Audience, Reporter, progress
from thanoproxy.session.services import Services
from thanoproxy.statements.collected import Training, Transfer
from thanoproxy.wire.pipeline import UpstreamError
from thanoproxy.wire.values import field_at
from thanoproxy.workers import jobs
from thanoproxy.workers.spool import SpoolWriter

__all__ = ["JobRun", "TrainingRun", "TransferRun", "job_run"]


class JobRun(ABC):
    """One job from its rows to its result, which `record` and `summary` tell once `run` has returned.

    From the beginning, when the rows are still to be read, it is shown to others; one of `registered` and `failed` ends that.
    """

    def __init__(self, work: Training | Transfer, audience: Audience) -> None:
        self._spoiled: asyncio.Future[ThanoError] = asyncio.get_running_loop().create_future()
        self.reporter = Reporter(audience, work.kind, work.model, work.role)

    @abstractmethod
    def feed(self, body: bytes) -> None:
        """One DataRow's body, in text format."""

    async def fed(self, done: asyncio.Future[None]) -> None:
        """Return when all rows were fed, as `done` says.  Raises what that raises, or what is wrong with a row as soon as one is: then the
        others need not be read."""
        either: list[asyncio.Future[Any]] = [done, self._spoiled]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._spoiled.done():
            raise self._spoiled.result()
        done.result()

    @abstractmethod
    async def run(self) -> None:
        """Work on what was fed.  Raises what stopped it."""

    @abstractmethod
    def record(self) -> ModelRecord | None:
        """What is to be written into the catalogue."""

    @abstractmethod
    def summary(self) -> tuple[Any, ...]:
        """The values of the row that answers."""

    @abstractmethod
    async def registered(self) -> None:
        """The result is in the catalogue, though perhaps not yet committed."""

    async def failed(self, problem: ThanoError | UpstreamError) -> None:
        """Show others why it ended."""
        await self.reporter.failed(problem)

    def discard(self) -> None:
        """Remove what was fed, and say no more."""
        self.reporter.close()


def job_run(work: Training | Transfer, services: Services, audience: Audience) -> JobRun:
    """The job that `work` asks for; it is begun."""
    return TransferRun(work, services, audience) if isinstance(work, Transfer) else TrainingRun(work, services, audience)


class TransferRun(JobRun):
    """Rows there are none."""

    def __init__(self, transfer: Transfer, services: Services, audience: Audience) -> None:
        super().__init__(transfer, audience)
        self._transfer = transfer
        self._pool = services.pool
        self._answer: jobs.Exported | jobs.Built | None = None
        self.reporter.stands(progress(self.reporter.job, transfer.phase))

    def feed(self, body: bytes) -> None:
        raise AssertionError("the query of a transfer has no rows")

    async def run(self) -> None:
        request, pool = self._transfer.request(self.reporter.job), self._pool
        try:
            self._answer = await (pool.export(request) if isinstance(request, jobs.Export) else pool.upload(request))
        except ThanoError as problem:
            raise problem.at(self._transfer.position) if isinstance(problem, DuplicateFile | FileUnavailable) else problem from None

    def record(self) -> ModelRecord | None:
        assert self._answer is not None, "it has run"
        return self._transfer.record(self._answer)

    def summary(self) -> tuple[Any, ...]:
        assert self._answer is not None, "it has run"
        return self._transfer.summary(self._answer)

    async def registered(self) -> None:
        accuracy = self._answer.metrics.get("validation_accuracy") if isinstance(self._answer, jobs.Built) else None
        await self.reporter.done(self._transfer.version, None, accuracy)


class TrainingRun(JobRun):
    """Feeds rows to a file as they come, then has a worker learn from it.

    A row that cannot be used, or kept, is remembered: the rows come in a callback that may not raise.
    """

    def __init__(self, training: Training, services: Services, audience: Audience) -> None:
        self._spool = SpoolWriter(str(services.spool))  # may fail, and so comes before others are told of a job
        super().__init__(training, audience)
        self.training = training
        self._pool = services.pool
        self._rows = 0
        self._built: jobs.Built | None = None
        self.reporter.now = lambda: progress(self.reporter.job, "reading", self._rows)

    def feed(self, body: bytes) -> None:
        if self._spoiled.done():
            return
        try:
            image, label = self.training.take(self._rows, [field_at(body, index) for index in self.training.indices])
            self._spool.add(image, label)
        except ThanoError as problem:
            self._spoiled.set_result(problem)
        else:
            self._rows += 1

    async def run(self) -> None:
        self._spool.finish()
        request = self.training.request(self.reporter.job, self._spool.path)
        try:
            self._built = await self._train(structs.replace(request, checkpoint=self._spool.checkpoint))
        except ThanoError as problem:
            raise self.training.options.blamed(problem) from None

    def record(self) -> ModelRecord:
        assert self._built is not None, "it has run"
        return self.training.record(self._built)

    def summary(self) -> tuple[Any, ...]:
        assert self._built is not None, "it has run"
        return self.training.summary(self._built)

    async def registered(self) -> None:
        assert self._built is not None, "it has run"
        await self.reporter.trained(self._built, self.training.version)

    async def _train(self, request: jobs.Build) -> jobs.Built:
        reporter = self.reporter
        reporter.now = reporter.as_before
        reporter.stands(progress(request.job, "queued"))
        async with aclosing(self._pool.build(request)) as events:
            async for event in events:
                if isinstance(event, jobs.Built):
                    return event
                if isinstance(event, jobs.Remark):
                    reporter.remark(event)
                else:
                    reporter.report(event)
        raise AssertionError("a build ends with Built or raises")

    def discard(self) -> None:
        super().discard()
        self._spool.discard()
