"""Reaching the PostgreSQL behind us: a session's own connection, and the short ones that carry a CancelRequest."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from typing import Any

from thanoproxy.session.link import Link
from thanoproxy.session.transport import SocketTransport
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
        SocketTransport(asyncio.get_running_loop(), await self._open_socket(), link)

    async def _open_socket(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        if self.path is not None:
            return await _connected(socket.socket(socket.AF_UNIX), self.path)
        problem: OSError | None = None
        for family, kind, protocol, _, address in await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
            try:
                sock = await _connected(socket.socket(family, kind, protocol), address)
            except OSError as error:
                problem = error
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return sock
        raise problem or OSError(f"{self.host} has no address")

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


async def _connected(sock: socket.socket, address: Any) -> socket.socket:
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock
