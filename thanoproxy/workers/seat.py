"""A place that one process after the other fills: watched, and replaced when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from thanoproxy.errors import ConfigurationError, ThanoError

__all__ = ["GIVE_UP", "Holder", "Seat"]

BACKOFF = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds to wait before the n-th start in a row that failed, or that did not last `STEADY` seconds."""

STEADY = 60.0
GIVE_UP = 3
"""After so many failed starts in a row nobody should wait for the seat; the starts go on."""

log = logging.getLogger(__name__)


class Holder(Protocol):
    """A process as its seat sees it."""

    @property
    def pid(self) -> int: ...

    async def run(self) -> str:
        """Until it is gone; how it ended."""

    async def stop(self) -> None:
        """End it."""


Held = TypeVar("Held", bound=Holder)


class Seat(Generic[Held]):
    """`start` makes a process and returns once it is ready; `changed` is called whenever the attributes have changed."""

    def __init__(self, name: str, start: Callable[[], Awaitable[Held]], changed: Callable[[], None]) -> None:
        self.name = name
        self.holder: Held | None = None
        self.failed_starts = 0
        self.problem: str | None = None
        """Why the last start failed, or else how the last process ended."""
        self._start = start
        self._changed = changed
        self._closing = False
        self._watch: asyncio.Task[None] | None = None

    @property
    def given_up(self) -> bool:
        return self.failed_starts >= GIVE_UP

    async def open(self) -> Held:
        """The first start, whose failure is the caller's to know."""
        holder = await self._fill()
        self._watch = asyncio.create_task(self._keep(holder), name=self.name)
        return holder

    async def close(self) -> None:
        self._closing = True
        holder, self.holder = self.holder, None
        if holder is not None:
            await holder.stop()
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch

    async def _keep(self, holder: Held | None) -> None:
        clock = asyncio.get_running_loop().time
        quick_deaths = 0
        while True:
            if holder is not None:
                since = clock()
                self.problem = await holder.run()
                if self._closing:
                    return
                quick_deaths = quick_deaths + 1 if clock() - since < STEADY else 0
                log.error("%s (process %d) is gone; starting another", self.name, holder.pid)
                self._set(None)
            await asyncio.sleep(BACKOFF[min(max(self.failed_starts, quick_deaths - 1), len(BACKOFF) - 1)])
            try:
                holder = await self._fill()
            except (ThanoError, OSError) as error:
                holder = None
                log.exception("%s cannot be started", self.name)
                self.failed_starts += 1
                self.problem = str(error if isinstance(error, ThanoError) else ConfigurationError(str(error)))
                self._set(None)

    async def _fill(self) -> Held:
        holder = await self._start()
        self.failed_starts = 0
        self._set(holder)
        return holder

    def _set(self, holder: Held | None) -> None:
        self.holder = holder
        self._changed()
