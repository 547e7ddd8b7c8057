"""A cancel request comes on a connection of its own, and so at any front; this is how it reaches the one that has the session.

Each front listens on a unix socket, in a folder that only its owner can enter.  A front that does not know a key sends the
CancelRequest as it is to all others at once.  As at the server itself, the answer is that the connection is closed: by then the
server has signalled the backend, or the key is nobody's there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable

from thanoproxy.wire.startup import Cancel, packet_size, read_packet

__all__ = ["Cancels"]

PATIENCE = 15.0
"""Seconds for another front; more than it takes to give up on a server that does not answer."""


class Cancels:
    """Of front `number` among `fronts`.  `cancel` is asked about the requests that the others hand on."""

    def __init__(self, folder: str, number: int, fronts: int, cancel: Callable[[Cancel], Awaitable[bool]]) -> None:
        self._own = _socket(folder, number)
        self._others = [_socket(folder, other) for other in range(fronts) if other != number]
        self._cancel = cancel
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._own)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def elsewhere(self, request: Cancel) -> None:
        """Ask every other front to carry it out; returns when each has, or has no such session, or is gone."""
        await asyncio.gather(*(_ask(other, request) for other in self._others))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readexactly(4)
            size = packet_size(head)
            assert size is not None, "the other front is our own"
            request = read_packet(head + await reader.readexactly(size - 4))
            assert isinstance(request, Cancel), "fronts send each other nothing else"
            await self._cancel(request)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # it died
        finally:
            writer.close()


async def _ask(other: str, request: Cancel) -> None:
    # A front that is not there has no sessions either.
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_unix_connection(other)
            try:
                writer.write(request.encode())
                await reader.read()
            finally:
                writer.close()


def _socket(folder: str, number: int) -> str:
    return os.path.join(folder, str(number), "cancels")
