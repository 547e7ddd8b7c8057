"""Reaching the PostgreSQL behind us: a session's own connection, and the short ones that carry a CancelRequest."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass

from thanoproxy.session.link import Link
from thanoproxy.wire.startup import Cancel

__all__ = ["Upstream"]

_CANCEL_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where the server is; `path` is its unix socket, if it has one for us."""

    host: str
    port: int
    path: str | None = None

    async def connect(self, link: Link) -> None:
        """Connect `link`.  Raises `OSError`."""
        loop = asyncio.get_running_loop()
        if self.path is not None:
            await loop.create_unix_connection(lambda: link, self.path)
            return
        await loop.create_connection(lambda: link, self.host, self.port)
        sock = link.transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    async def cancel(self, request: Cancel) -> None:
        """Send a CancelRequest and return once the server has closed the connection, which says that it has signalled the backend."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CANCEL_TIMEOUT):
                await self._send_cancel(request.encode())

    async def _send_cancel(self, packet: bytes) -> None:
        opening = asyncio.open_unix_connection(self.path) if self.path is not None else asyncio.open_connection(self.host, self.port)
        reader, writer = await opening
        try:
            writer.write(packet)
            await reader.read()
        finally:
            writer.close()
