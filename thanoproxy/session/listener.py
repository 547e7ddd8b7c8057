"""The socket that clients connect to."""

from __future__ import annotations

import asyncio
import socket

__all__ = ["Listener", "listen"]

_BACKLOG = 1024


class Listener:
    """A listening socket that is this process's alone.  `clients` is how many of those who came are still there."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.clients = 0

    @property
    def address(self) -> tuple[str, int]:
        host, port, *_ = self.socket.getsockname()
        return host, port

    async def accept(self) -> socket.socket:
        """The next client.  Raises `OSError`."""
        sock, _ = await asyncio.get_running_loop().sock_accept(self.socket)
        return sock

    def close(self) -> None:
        self.socket.close()


def listen(address: tuple[str, int]) -> socket.socket:
    """A socket that listens there.  Raises `OSError`."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(address)
    sock.listen(_BACKLOG)
    sock.setblocking(False)
    return sock
