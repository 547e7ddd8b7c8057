"""A pool inside this process: the same device loop as a worker process runs, on a thread.  For tests and one-off tools.

Imports torch when it starts, not when it is imported.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

from thanoproxy.errors import Canceled
from thanoproxy.workers import jobs
from thanoproxy.workers.memory import keep_freed_memory
from thanoproxy.workers.replies import Report, one_reply, until_built
from thanoproxy.workers.settings import WorkerSettings

if TYPE_CHECKING:
    from thanoproxy.workers.device_loop import DeviceLoop

__all__ = ["InlinePool"]


class InlinePool:
    """See `thanoproxy.workers.pool.Pool`."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._device_loop: DeviceLoop | None = None

    async def start(self) -> None:
        """Import torch and start the threads.  Raises `ConfigurationError`."""
        keep_freed_memory()
        self._device_loop = await asyncio.to_thread(_start, self._settings)

    async def close(self) -> None:
        """Stop the threads; jobs still running fail with `Canceled`."""
        if self._device_loop is not None:
            device_loop, self._device_loop = self._device_loop, None
            await asyncio.to_thread(device_loop.close)

    async def load(self, request: jobs.Load) -> jobs.Loaded:
        return await one_reply(self._send, request, jobs.Loaded)

    async def predict(self, request: jobs.Predict) -> jobs.Predicted:
        return await one_reply(self._send, request, jobs.Predicted)

    async def identify(self, request: jobs.Identify) -> jobs.Identified:
        return await one_reply(self._send, request, jobs.Identified)

    async def export(self, request: jobs.Export) -> jobs.Exported:
        return await one_reply(self._send, request, jobs.Exported)

    async def upload(self, request: jobs.Upload) -> jobs.Built:
        return await one_reply(self._send, request, jobs.Built)

    def build(self, request: jobs.Build) -> AsyncGenerator[Report, None]:
        return until_built(self._send, request)

    def _send(self, request: jobs.Request, receive: Callable[[jobs.Reply], None]) -> None:
        if self._device_loop is None:
            raise Canceled("the workers are stopped")
        loop = asyncio.get_running_loop()

        def reply(answer: jobs.Reply) -> None:
            loop.call_soon_threadsafe(receive, answer)

        self._device_loop.submit(request, reply, owner=self)


def _start(settings: WorkerSettings) -> DeviceLoop:
    from thanoproxy.workers.device_loop import DeviceLoop

    return DeviceLoop(settings, settings.devices[0])
