"""A BUILD or FIT from its rows to its result: spool, job, progress to the client and to everybody else.

EXPORT and UPLOAD are jobs without rows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from msgspec import structs

from thanoproxy.catalog.records import ModelRecord
from thanoproxy.errors import DuplicateFile, FileUnavailable, ThanoError
from thanoproxy.session.services import Services
from thanoproxy.statements.shapes import Training, Transfer
from thanoproxy.wire import messages
from thanoproxy.wire.values import field_at
from thanoproxy.workers import jobs
from thanoproxy.workers.spool import SpoolWriter

__all__ = ["JobRun", "TrainingRun", "TransferRun", "job_run", "progress_text"]


class JobRun:
    """One job from its rows to its result, which `record` and `summary` tell once `run` has returned."""

    def feed(self, body: bytes) -> None:
        """One DataRow's body, in text format."""
        raise NotImplementedError

    async def run(self, notify: Callable[[bytes], None], encoding: str) -> None:
        """Work on what was fed; `notify` gets a notice for each report.  Raises what stopped it."""
        raise NotImplementedError

    def record(self) -> ModelRecord | None:
        """What is to be written into the catalogue."""
        raise NotImplementedError

    def summary(self) -> tuple[Any, ...]:
        """The values of the row that answers."""
        raise NotImplementedError

    async def registered(self) -> None:
        """The result is in the catalogue, though perhaps not yet committed."""

    async def failed(self, problem: ThanoError) -> None:
        """Show others why it ended."""

    def discard(self) -> None:
        """Remove what was fed."""


def job_run(work: Training | Transfer, services: Services, database: str, backend_pid: int) -> JobRun:
    return TransferRun(work, services) if isinstance(work, Transfer) else TrainingRun(work, services, database, backend_pid)


class TransferRun(JobRun):
    """Rows there are none."""

    def __init__(self, transfer: Transfer, services: Services) -> None:
        self._transfer = transfer
        self._services = services
        self._answer: jobs.Exported | jobs.Built | None = None

    def feed(self, body: bytes) -> None:
        raise AssertionError("the query of a transfer has no rows")

    async def run(self, notify: Callable[[bytes], None], encoding: str) -> None:
        request, pool = self._transfer.request(uuid4().hex), self._services.pool
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


class TrainingRun(JobRun):
    """Feeds rows to a file as they come, then has a worker learn from it.

    A row that cannot be used is remembered and raised by `run`: the rows come in a callback that may not raise.
    """

    def __init__(self, training: Training, services: Services, database: str, backend_pid: int) -> None:
        self.training = training
        self._services = services
        self._database = database
        self._backend_pid = backend_pid
        self._spool = SpoolWriter(str(services.spool))
        self._rows = 0
        self._problem: ThanoError | None = None
        self._job = ""
        self._built: jobs.Built | None = None

    def feed(self, body: bytes) -> None:
        if self._problem is not None:
            return
        try:
            image, label = self.training.take(self._rows, [field_at(body, index) for index in self.training.indices])
        except ThanoError as problem:
            self._problem = problem
            return
        self._spool.add(image, label)
        self._rows += 1

    async def run(self, notify: Callable[[bytes], None], encoding: str) -> None:
        self._spool.finish()
        if self._problem is not None:
            raise self._problem
        request = structs.replace(self.training.request("", self._spool.path), checkpoint=self._spool.checkpoint)
        training = self.training
        self._job = await self._services.log.begin(self._database, training.kind, training.model, training.role, self._backend_pid)
        self._built = await self._train(structs.replace(request, job=self._job), notify, encoding)

    def record(self) -> ModelRecord:
        assert self._built is not None, "it has run"
        return self.training.record(self._built)

    def summary(self) -> tuple[Any, ...]:
        assert self._built is not None, "it has run"
        return self.training.summary(self._built)

    async def registered(self) -> None:
        assert self._built is not None, "it has run"
        await self._services.log.finish(self._database, self._job, self._built, self.training.version)

    async def failed(self, problem: ThanoError) -> None:
        if self._job:
            await self._services.log.fail(self._database, self._job, problem)

    async def _train(self, request: jobs.Build, notify: Callable[[bytes], None], encoding: str) -> jobs.Built:
        async with aclosing(self._services.pool.build(request)) as events:
            async for event in events:
                if isinstance(event, jobs.Built):
                    return event
                if isinstance(event, jobs.Remark):
                    notify(remark_notice(event, encoding))
                    continue
                notify(messages.notice(progress_text(event), encoding=encoding))
                await self._services.log.progress(self._database, self._job, event)
        raise AssertionError("a build ends with Built or raises")

    def discard(self) -> None:
        self._spool.discard()


def remark_notice(remark: jobs.Remark, encoding: str) -> bytes:
    """A notice, or a warning, whose SQLSTATE is PostgreSQL's own for warnings."""
    code = "01000" if remark.severity == "WARNING" else "00000"
    return messages.notice(remark.message, severity=remark.severity, sqlstate=code, detail=remark.detail, encoding=encoding)


def progress_text(progress: jobs.Progress) -> str:
    """The line a client reads while it waits."""
    parts: list[str] = [progress.phase]
    if progress.images_total:
        parts = [f"{progress.phase}: {progress.images_done}/{progress.images_total} images"]
    if progress.images_per_second:
        parts.append(f"{progress.images_per_second:.1f} images/s")
    epoch = progress.epoch
    if epoch is not None:
        parts.insert(0, f"epoch {epoch.epoch}")
    named: dict[str, Any] = {"loss": progress.loss, "accuracy": progress.accuracy}
    if epoch is not None:
        named["validation accuracy"] = epoch.validation_accuracy
    parts += [f"{name} {value:.4f}" for name, value in named.items() if value is not None]
    if progress.seconds_left is not None:
        parts.append(f"{progress.seconds_left:.0f} s left")
    return ", ".join(parts)
