"""One listening socket for all fronts, and a tally by which the one with the fewest clients goes first.

A session may last for days, so who accepts it matters more than how fast.  The kernel wakes every front that waits and lets the
quickest win, which left to itself is often the same one (21 of 32 clients with four fronts on two cores).  With a socket for each front
(SO_REUSEPORT) it would deal them out blindly, and lose those in the queue of a front that dies.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import socket

from thanoproxy.session.listener import Listener

__all__ = ["SharedListener", "Tally"]

STAND_BACK = 0.002
"""Seconds for those with fewer clients to take the next one; if they do not, because they are busy or dead, we do."""


class Tally:
    """How many clients each front has, in a file that all of them map."""

    def __init__(self, folder: str) -> None:
        with open(os.path.join(folder, "tally"), "r+b") as file:
            self.counts = memoryview(mmap.mmap(file.fileno(), 0)).cast("I")

    @staticmethod
    def make(folder: str, fronts: int) -> None:
        with open(os.path.join(folder, "tally"), "xb") as file:
            file.write(bytes(4 * fronts))


class SharedListener(Listener):
    """The socket as front `number` sees it; only that writes its entry of the tally."""

    def __init__(self, sock: socket.socket, tally: Tally, number: int) -> None:
        self._tally = tally.counts
        self._number = number
        super().__init__(sock)

    @property
    def clients(self) -> int:
        return self._tally[self._number]

    @clients.setter
    def clients(self, count: int) -> None:
        self._tally[self._number] = count

    async def accept(self) -> socket.socket:
        while True:
            await self._readable()
            if self.clients > min(self._tally):
                await asyncio.sleep(STAND_BACK)
            try:
                sock, _ = self.socket.accept()
            except BlockingIOError:
                continue  # another front was faster
            sock.setblocking(False)
            return sock

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()
        loop.add_reader(self.socket, arrived.set)
        try:
            await arrived.wait()
        finally:
            loop.remove_reader(self.socket)
