"""What a client and everybody else see of a job of ours while it runs: NOTICEs, and a row of thanosql.jobs.

Rows are written without being waited for, so a statement that is soon over pays next to nothing for its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from msgspec import structs

from thanoproxy.errors import ThanoError
from thanoproxy.wire.pipeline import UpstreamError
from thanoproxy.workers import jobs

if TYPE_CHECKING:
    from thanoproxy.session.exchange import Exchange
    from thanoproxy.session.execute import Identity
    from thanoproxy.session.services import JobLog

__all__ = ["PERIOD", "Audience", "Reporter", "progress", "progress_text"]

PERIOD = 5.0
"""Seconds in which a client hears something of its statement, whatever that is at."""


class Audience:
    """Who hears of a session's jobs: its client, and others through the log."""

    def __init__(self, log: JobLog, identity: Identity, exchange: Exchange) -> None:
        self.log = log
        self.identity = identity
        self.reporter: Reporter | None = None
        self._waits = False
        self._exchange = exchange
        self._told = 0.0

    @asynccontextmanager
    async def informed(self, has_job: bool) -> AsyncIterator[None]:
        """A statement that may have a job: while the server has it wait before that, as for a lock, the client hears of it, too."""
        if not has_job:
            yield
            return
        self._told = asyncio.get_running_loop().time()
        self.expect()
        ticking = asyncio.create_task(self._tick(), name="reports")
        try:
            yield
        finally:
            ticking.cancel()

    def expect(self) -> None:
        """Until there is a job, whatever takes time is the server."""
        self._waits = True

    @property
    def codec(self) -> str:
        """Of what the server says to the client."""
        return self._exchange.codec

    def follow(self, reporter: Reporter | None) -> None:
        """The job that is told of from now on.  After one there is nothing to tell, until another is expected."""
        self.reporter, self._waits = reporter, False

    def tell(self, text: str, **fields: Any) -> None:
        """The client."""
        self._told = asyncio.get_running_loop().time()
        self._exchange.notice(text, **fields)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(max(0.01, self._told + PERIOD - loop.time()))
            if loop.time() < self._told + PERIOD:
                continue
            if self.reporter is not None:
                self.reporter.report(self.reporter.now())
            elif self._waits:
                self.tell("waiting for the server", routine="progress")
            else:
                self._told = loop.time()


class Reporter:
    """Tells of one job from now until it is closed.

    Whoever works on it says what is new.  Where that is nothing for a while, as when the rows are slow to come or a batch is large,
    `now` is asked how things stand.
    """

    def __init__(self, audience: Audience, kind: str, model: str, role: str) -> None:
        self._audience = audience
        self._database = audience.identity.database
        self.job = audience.log.begin(self._database, kind, model, role, audience.identity.backend_pid)
        self.now: Callable[[], jobs.Progress] = self.as_before
        self._last = progress(self.job, "reading")
        audience.follow(self)

    def report(self, progress: jobs.Progress) -> None:
        """Say how far it is."""
        self._last = progress
        self._audience.tell(progress_text(progress), routine="progress")
        self._audience.log.progress(self._database, self.job, progress)

    def stands(self, progress: jobs.Progress) -> None:
        """That is how far it is, which need not be told yet."""
        self._last = progress

    def as_before(self) -> jobs.Progress:
        """What was told last, a while later."""
        left = self._last.seconds_left
        return structs.replace(self._last, seconds_left=None if left is None else max(0.0, left - PERIOD), epoch=None)

    def remark(self, remark: jobs.Remark) -> None:
        """What the client should know; a warning has PostgreSQL's own SQLSTATE for that."""
        code = "01000" if remark.severity == "WARNING" else "00000"
        self._audience.tell(remark.message, severity=remark.severity, sqlstate=code, detail=remark.detail)

    async def trained(self, built: jobs.Built, version: int) -> None:
        """Show others which version it made."""
        await self._audience.log.finish(self._database, self.job, built, version)

    async def done(self, version: int, images: int | None, accuracy: float | None) -> None:
        """Show others that it is over, where nothing was trained."""
        await self._audience.log.done(self._database, self.job, version, images, accuracy)

    async def failed(self, problem: ThanoError | UpstreamError) -> None:
        """Show others why it ended."""
        self.close()
        if isinstance(problem, UpstreamError):
            sqlstate, message = problem.fields.sqlstate, problem.fields.said(self._audience.codec)
        else:
            sqlstate, message = problem.sqlstate, problem.message
        await self._audience.log.fail(self._database, self.job, sqlstate, message)

    def close(self) -> None:
        """Say no more."""
        if self._audience.reporter is self:
            self._audience.follow(None)


def progress(job: str, phase: jobs.Phase, done: int = 0, total: int = 0, *, rate: float = 0.0) -> jobs.Progress:
    """So many images, or rows, at so many a second."""
    left = (total - done) / rate if rate and total else None
    return jobs.Progress(job=job, phase=phase, images_done=done, images_total=total, images_per_second=rate, seconds_left=left)


def progress_text(progress: jobs.Progress) -> str:
    """The line a client reads while it waits."""
    parts, noun = [str(progress.phase)], "rows" if progress.phase == "reading" else "images"
    if progress.images_total:
        parts = [f"{progress.phase}: {progress.images_done}/{progress.images_total} {noun}"]
    elif progress.images_done:
        parts = [f"{progress.phase}: {progress.images_done} {noun}"]
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
