"""The process that serves by others: it owns the listening socket and the workers, and keeps `server.fronts` fronts running.

start    listening socket, workers, then the fronts
serve    workers that come and go are told to every front; a front that dies is replaced, and so is a worker
drain    every front drains, then the workers end

If this process is killed, the pipes to the others close, and they end and remove its folders.
"""

from __future__ import annotations

import asyncio
import os
import shutil

from thanoproxy.config import Settings
from thanoproxy.fronts.front import Front
from thanoproxy.fronts.listener import Tally
from thanoproxy.fronts.orders import Follow, Order, Reload, Start
from thanoproxy.server import worker_settings
from thanoproxy.session.listener import Listener, listen
from thanoproxy.workers.local import LocalPool
from thanoproxy.workers.scratch import Scratch, remove_abandoned
from thanoproxy.workers.seat import Seat

__all__ = ["Fronts"]


class Fronts:
    """Started, reloaded and closed as a `thanoproxy.server.Server` is."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.address = (settings.server.host, settings.server.port)
        self._pool = LocalPool(worker_settings(settings))
        self._seats = [self._seat(number) for number in range(settings.server.fronts)]
        self._listener: Listener | None = None
        self._scratch: Scratch | None = None

    @property
    def pids(self) -> list[int]:
        """The front processes alive now."""
        return [seat.holder.pid for seat in self._seats if seat.holder is not None]

    async def start(self) -> None:
        """Begin to serve; `address` then has the port in use.  Raises `ConfigurationError`, or `OSError` if the port is taken."""
        self._listener = Listener(listen(self.address))
        self.address = self._listener.address
        await self._pool.start()
        await asyncio.to_thread(remove_abandoned)
        self._scratch = Scratch()
        Tally.make(self._folder, len(self._seats))
        self._pool.on_change = self._follow
        first, *others = self._seats
        await first.open()  # alone, so that what is wrong with the settings is found once
        for problem in await asyncio.gather(*(seat.open() for seat in others), return_exceptions=True):
            if isinstance(problem, BaseException):
                raise problem

    @property
    def _folder(self) -> str:
        assert self._scratch is not None, "started"
        return self._scratch.path

    def reload(self) -> None:
        """Have every front read certificates and verifiers again."""
        self._tell(Reload())

    async def close(self) -> None:
        """Drain: idle sessions end at once, the others when their transaction does, or after a deadline."""
        if self._listener is not None:
            self._listener.close()
        await asyncio.gather(*(seat.close() for seat in self._seats))
        await self._pool.close()
        if self._scratch is not None:
            self._scratch.remove()

    def _follow(self) -> None:
        self._tell(Follow(self._pool.places))

    def _tell(self, order: Order) -> None:
        for seat in self._seats:
            if seat.holder is not None:
                seat.holder.tell(order)

    def _seat(self, number: int) -> Seat[Front]:
        async def start() -> Front:
            assert self._listener is not None, "it outlives the fronts"
            # With the spools of the one before, which may have been killed.
            own = os.path.join(self._folder, str(number))
            await asyncio.to_thread(shutil.rmtree, own, ignore_errors=True)
            os.mkdir(own)
            plain = self.settings.model_dump(mode="json")
            told = Start(plain, number, len(self._seats), self._listener.socket.fileno(), self._folder, self._pool.places)
            return await Front.start(told)

        # A new front is told of the workers again: there may have been news while it started.
        return Seat(f"front {number}", start, self._follow)
