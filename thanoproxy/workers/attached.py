"""Workers that another process of ours started and watches: connected to, and followed when one takes another's place.

The process that owns them (`thanoproxy.workers.local`) says who is there by a list of `Place`s, at the start and whenever it has
changed.  What happens to a job whose worker dies is the same as there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import msgspec

from thanoproxy.errors import Canceled
from thanoproxy.workers.child import died
from thanoproxy.workers.crew import Crew
from thanoproxy.workers.line import Line
from thanoproxy.workers.settings import WorkerSettings

__all__ = ["AttachedPool", "Place"]

PATIENCE = 1.0
"""Seconds for the owner to say how a worker ended."""

RETRY = 0.1


class Place(msgspec.Struct, frozen=True):
    """A device's worker: where it listens, or what keeps it from that, and whether to wait for it is in vain."""

    socket: str | None
    problem: str | None = None
    given_up: bool = False


class AttachedPool(Crew):
    """See `thanoproxy.workers.pool.Pool`.  `settings` are those of the workers; `number` tells apart those who attach to the same ones."""

    def __init__(self, places: Sequence[Place], settings: WorkerSettings, number: int = 0) -> None:
        super().__init__(settings)
        self._seats = [_Attached(place, self._tell) for place in places]
        # Each front sees only its own jobs, so of two idle workers not all of them may take the same.
        self._turn = number % max(len(self._seats), 1)

    async def start(self) -> None:
        """Connect to those who are there."""
        for seat in self._seats:
            seat.open()
        await asyncio.gather(*(seat.tried.wait() for seat in self._seats))

    async def close(self) -> None:
        """Disconnect; jobs still running fail with `Canceled`."""
        self._closing = True
        self._tell()
        await asyncio.gather(self._quarantine.close(), *(seat.close() for seat in self._seats))

    def follow(self, places: Sequence[Place]) -> None:
        """The owner's news; the places are those of the start, in the same order."""
        for seat, place in zip(self._seats, places, strict=True):
            seat.move(place)
        self._tell()

    def _lines(self) -> list[Line]:
        return [seat.line for seat in self._seats[self._turn :] + self._seats[: self._turn] if seat.line is not None]

    def _hopeless(self) -> str | None:
        return str(self._seats[0].place.problem) if all(seat.place.given_up for seat in self._seats) else None


class _Attached:
    """The connection to one device's worker, and to the next one after it."""

    def __init__(self, place: Place, tell: Callable[[], None]) -> None:
        self.place = place
        self.line: Line | None = None
        self.tried = asyncio.Event()
        self._tell = tell
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._task = asyncio.create_task(self._keep(), name="attached worker")

    def move(self, place: Place) -> None:
        if place != self.place:
            self.place = place
            self._moved.set()
            self._moved = asyncio.Event()

    async def close(self) -> None:
        if self.line is not None:
            self.line.over(Canceled("the workers were stopped"))
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _keep(self) -> None:
        while True:
            moved, line = self._moved, await self._connect()
            self.tried.set()
            if line is None:
                await _wait(moved, RETRY if self.place.socket is not None else None)
                continue
            self._set(line)
            try:
                await line.run()
            finally:
                self._set(None)
            try:
                await _wait(moved, PATIENCE)
            finally:
                line.over(died(self.place.problem))

    async def _connect(self) -> Line | None:
        if self.place.socket is None:
            return None
        try:
            return await Line.connect(self.place.socket)
        except OSError:  # it died, and the owner does not know yet
            return None

    def _set(self, line: Line | None) -> None:
        self.line = line
        self._tell()


async def _wait(event: asyncio.Event, seconds: float | None) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
