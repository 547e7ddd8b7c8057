"""Workers on this machine: a process for each device, watched, and replaced when it dies.

A job whose worker dies fails with `WorkerFailure`; a PREDICT or a Load, which leaves nothing behind, is first tried once more
on whichever worker is there.  Imports no torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing

from thanoproxy.errors import Canceled, ConfigurationError, ThanoError, WorkerFailure
from thanoproxy.workers import jobs
from thanoproxy.workers.child import Child
from thanoproxy.workers.replies import Answer, one_reply, until_built
from thanoproxy.workers.settings import WorkerSettings

__all__ = ["LocalPool"]

BACKOFF = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds to wait before the n-th start in a row that failed, or that did not last `STEADY` seconds."""

STEADY = 60.0
GIVE_UP = 3
"""After so many failed starts in a row jobs no longer wait for the worker; the starts go on."""

log = logging.getLogger(__name__)


class LocalPool:
    """See `thanoproxy.workers.pool.Pool`."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._folder = ""
        self._seats: list[_Seat] = []
        self._changed = asyncio.Condition()
        self._closing = False

    @property
    def devices(self) -> list[str]:
        """The devices at work, by name."""
        return [seat.device for seat in self._seats]

    @property
    def pids(self) -> list[int]:
        """The worker processes alive now."""
        return [seat.child.pid for seat in self._seats if seat.child is not None]

    async def start(self) -> None:
        """Start every worker and wait until all are ready.  Raises `ConfigurationError` or `WorkerFailure`."""
        # In the system's folder for temporary files, because a socket's path may have no more than 107 bytes (unix(7)).
        self._folder = tempfile.mkdtemp(prefix="thanoproxy-")
        try:
            for device in self._settings.devices:
                child = await self._add_seat(device)
                if device == "auto":
                    names = [f"cuda:{index}" for index in range(1, child.started.devices)]
                    await asyncio.gather(*(self._add_seat(name) for name in names))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End every worker; jobs still running fail with `Canceled`."""
        self._closing = True
        async with self._changed:
            self._changed.notify_all()
        await asyncio.gather(*(seat.close() for seat in self._seats))
        shutil.rmtree(self._folder, ignore_errors=True)

    async def load(self, request: jobs.Load) -> jobs.Loaded:
        return await self._ask(request, jobs.Loaded)

    async def predict(self, request: jobs.Predict) -> jobs.Predicted:
        return await self._ask(request, jobs.Predicted)

    async def build(self, request: jobs.Build) -> AsyncGenerator[jobs.Progress | jobs.Built, None]:
        child = await self._pick()
        child.builds += 1
        try:
            async with aclosing(until_built(child.send, request)) as reports:
                async for report in reports:
                    yield report
        finally:
            child.builds -= 1

    async def _ask(self, request: jobs.Load | jobs.Predict, kind: type[Answer]) -> Answer:
        try:
            return await one_reply((await self._pick()).send, request, kind)
        except WorkerFailure:
            if self._closing:
                raise
            log.warning("job %s lost its worker and is tried again", request.job)
            return await one_reply((await self._pick()).send, request, kind)

    async def _pick(self) -> Child:
        """The least busy worker; waits for one that is being restarted.

        Raises `WorkerFailure` if none can be started, and `Canceled` if the pool is closed.
        """
        async with self._changed:
            while not (children := [seat.child for seat in self._seats if seat.child is not None]):
                if self._closing or not self._seats:
                    raise Canceled("the workers were stopped")
                if all(seat.failed_starts >= GIVE_UP for seat in self._seats):
                    raise WorkerFailure("no worker can be started", detail=str(self._seats[0].last_error))
                await self._changed.wait()
        return min(children, key=lambda child: (child.builds, child.rows_under_way))

    async def _add_seat(self, device: str) -> Child:
        seat = _Seat(self._settings, device, self._folder, self._changed)
        self._seats.append(seat)
        return await seat.open()


class _Seat:
    """A device and the process that serves it, one after the other."""

    def __init__(self, settings: WorkerSettings, device: str, folder: str, changed: asyncio.Condition) -> None:
        self.device = device
        self.child: Child | None = None
        self.failed_starts = 0
        self.last_error: ThanoError | None = None
        self._settings = settings
        self._folder = folder
        self._closing = False
        self._changed = changed
        self._starts = 0
        self._watch: asyncio.Task[None] | None = None

    async def open(self) -> Child:
        """The first start, whose failure is the caller's to know."""
        child = await self._start()
        self.device = child.started.device
        self._watch = asyncio.create_task(self._keep(child), name=f"worker {self.device}")
        return child

    async def close(self) -> None:
        self._closing = True
        child, self.child = self.child, None
        if child is not None:
            await child.stop()
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch

    async def _keep(self, child: Child | None) -> None:
        clock = asyncio.get_running_loop().time
        quick_deaths = 0
        while True:
            if child is not None:
                since = clock()
                await child.run()
                if self._closing:
                    return
                quick_deaths = quick_deaths + 1 if clock() - since < STEADY else 0
                log.error("worker %s (process %d) is gone; starting another", self.device, child.pid)
                await self._seat(None)
            await asyncio.sleep(BACKOFF[min(max(self.failed_starts, quick_deaths - 1), len(BACKOFF) - 1)])
            try:
                child = await self._start()
            except (ThanoError, OSError) as error:
                child = None
                log.exception("worker %s cannot be started", self.device)
                self.failed_starts += 1
                self.last_error = error if isinstance(error, ThanoError) else ConfigurationError(str(error))
                await self._seat(None)

    async def _start(self) -> Child:
        self._starts += 1
        name = f"{self.device.replace(':', '')}-{self._starts}"
        child = await Child.start(self._settings, self.device, self._folder, name)
        self.failed_starts = 0
        await self._seat(child)
        return child

    async def _seat(self, child: Child | None) -> None:
        async with self._changed:
            self.child = child
            self._changed.notify_all()
