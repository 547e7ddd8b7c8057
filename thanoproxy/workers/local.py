"""Workers on this machine: a process for each device, watched, and replaced when it dies.

Other processes of ours may attach to them (`thanoproxy.workers.attached`); `on_change` is how they are told who is there.  Imports
no torch.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable

from thanoproxy.workers.attached import Place
from thanoproxy.workers.child import Child
from thanoproxy.workers.crew import Crew
from thanoproxy.workers.line import Line
from thanoproxy.workers.scratch import Scratch
from thanoproxy.workers.seat import Seat
from thanoproxy.workers.settings import WorkerSettings

__all__ = ["LocalPool"]


class LocalPool(Crew):
    """See `thanoproxy.workers.pool.Pool`."""

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        self.on_change: Callable[[], None] = _nobody
        self._settings = settings
        self._scratch: Scratch | None = None
        self._numbers = itertools.count(1)
        self._seats: list[Seat[Child]] = []

    @property
    def devices(self) -> list[str]:
        """The devices at work, by name."""
        return [seat.name.removeprefix("worker ") for seat in self._seats]

    @property
    def pids(self) -> list[int]:
        """The worker processes alive now."""
        return [seat.holder.pid for seat in self._seats if seat.holder is not None]

    @property
    def places(self) -> list[Place]:
        """Every device's worker, for those who attach."""
        return [Place(None if seat.holder is None else seat.holder.socket, seat.problem, seat.given_up) for seat in self._seats]

    @property
    def _folder(self) -> str:
        assert self._scratch is not None, "started"
        return self._scratch.path

    async def start(self) -> None:
        """Start every worker and wait until all are ready.  Raises `ConfigurationError` or `WorkerFailure`."""
        # In the system's folder for temporary files, because a socket's path may have no more than 107 bytes (unix(7)).
        self._scratch = Scratch()
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
        self._tell()
        await asyncio.gather(self._quarantine.close(), *(seat.close() for seat in self._seats))
        if self._scratch is not None:
            self._scratch.remove()

    def _lines(self) -> list[Line]:
        return [seat.holder.line for seat in self._seats if seat.holder is not None]

    def _hopeless(self) -> str | None:
        return str(self._seats[0].problem) if self._seats and all(seat.given_up for seat in self._seats) else None

    async def _add_seat(self, device: str) -> Child:
        async def start() -> Child:
            # A name of its own each time, so that nobody takes a new worker for the one before.
            name = seat.name.removeprefix("worker ")
            socket = os.path.join(self._folder, f"{name.replace(':', '')}-{next(self._numbers)}")
            return await Child.start(self._settings, name, socket)

        seat = Seat(f"worker {device}", start, self._changed)
        self._seats.append(seat)
        child = await seat.open()
        seat.name = f"worker {child.started.device}"
        return child

    def _changed(self) -> None:
        self._tell()
        self.on_change()


def _nobody() -> None:
    """No other process is attached."""
