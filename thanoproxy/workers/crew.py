"""What the pools of worker processes share: each job goes to the least busy worker, and waits for one where there is none.

A job whose worker dies is tried again on whichever worker is there: a PREDICT, a Load or an Identify once, a BUILD, which goes on from
its last checkpoint, `RESUMES` times.  Then it fails with `WorkerFailure`; but a PREDICT is tried apart, to find the images that it
is to blame for (`thanoproxy.workers.quarantine`).
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing

from thanoproxy.errors import Canceled, WorkerFailure
from thanoproxy.workers import jobs
from thanoproxy.workers.line import Line
from thanoproxy.workers.quarantine import Quarantine
from thanoproxy.workers.replies import Answer, Report, one_reply, until_built
from thanoproxy.workers.settings import WorkerSettings

__all__ = ["Crew"]

RESUMES = 2
"""What kills a third worker is likely to be the job itself."""

TRIES = 2
"""Workers that another job may lose, among others' jobs."""

log = logging.getLogger(__name__)


class Crew(ABC):
    """See `thanoproxy.workers.pool.Pool`.  Who has a seat and who is gone is the subclass's to know, and to tell by `_tell`."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._closing = False
        self._news = asyncio.Event()
        self._quarantine = Quarantine(settings)

    @abstractmethod
    def _lines(self) -> list[Line]:
        """The workers that are there; of equally busy ones the first gets the job."""

    @abstractmethod
    def _hopeless(self) -> str | None:
        """Why it makes no sense to wait for a worker; None where it does."""

    async def load(self, request: jobs.Load) -> jobs.Loaded:
        return await self._ask(request, jobs.Loaded)

    async def predict(self, request: jobs.Predict) -> jobs.Predicted:
        try:
            return await self._ask(request, jobs.Predicted)
        except _Lost:
            return await self._quarantine.predict(request)

    async def identify(self, request: jobs.Identify) -> jobs.Identified:
        return await self._ask(request, jobs.Identified)

    async def export(self, request: jobs.Export) -> jobs.Exported:
        # Not tried again: the file may be there.
        return await one_reply((await self._pick()).send, request, jobs.Exported)

    async def upload(self, request: jobs.Upload) -> jobs.Built:
        # Nor this: the file may be what the worker died of.
        return await one_reply((await self._pick()).send, request, jobs.Built)

    async def build(self, request: jobs.Build) -> AsyncGenerator[Report, None]:
        for resumes_left in range(RESUMES if request.checkpoint is not None else 0, -1, -1):
            line = await self._pick()
            try:
                async with aclosing(self._train(line, request)) as reports:
                    async for report in reports:
                        yield report
            except WorkerFailure as problem:
                if self._closing or not resumes_left:
                    raise
                log.warning("job %s lost its worker and is resumed", request.job)
                yield _resumed(request.job, problem)
            else:
                return

    async def _train(self, line: Line, request: jobs.Build) -> AsyncGenerator[Report, None]:
        line.builds += 1
        try:
            async with aclosing(until_built(line.send, request)) as reports:
                async for report in reports:
                    yield report
        finally:
            line.builds -= 1

    async def _ask(self, request: jobs.Load | jobs.Predict | jobs.Identify, kind: type[Answer]) -> Answer:
        """The answer of the first worker that lives to give it.  Raises `_Lost` after `TRIES`."""
        problem: WorkerFailure | None = None
        for _ in range(TRIES):
            line = await self._pick()
            try:
                return await one_reply(line.send, request, kind)
            except WorkerFailure as failure:
                if self._closing or not line.is_over:
                    raise
                log.warning("job %s lost its worker", request.job)
                problem = failure
        assert problem is not None, "it was tried"
        raise _Lost(problem.message, detail=problem.detail, hint=problem.hint)

    async def _pick(self) -> Line:
        """The least busy worker; waits for one that is being restarted.

        Raises `WorkerFailure` if none can be started, and `Canceled` if the pool is closed.
        """
        while not (lines := self._lines()):
            if self._closing:
                raise Canceled("the workers were stopped")
            if (problem := self._hopeless()) is not None:
                raise WorkerFailure("no worker can be started", detail=problem)
            await self._news.wait()
        return min(lines, key=lambda line: (line.builds, line.rows_under_way))

    def _tell(self) -> None:
        """Wake those who wait: a worker came or went, or the pool is closing."""
        self._news.set()
        self._news = asyncio.Event()


class _Lost(WorkerFailure):
    """Every worker that had the job died."""


def _resumed(job: str, problem: WorkerFailure) -> jobs.Remark:
    message = f"{problem.message}; another one resumes the training from its last checkpoint"
    return jobs.Remark(job=job, severity="WARNING", message=message, detail=problem.detail)
