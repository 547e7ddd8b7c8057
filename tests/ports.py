"""A port for a server that must be told one before it starts."""

from __future__ import annotations

import random
import socket

__all__ = ["free_port"]

_LOWEST, _HIGHEST = 16_384, 32_767
_CHOICE = random.SystemRandom()


def free_port(host: str = "127.0.0.1") -> int:
    """A port of `host` that nobody has, below those that the system gives to whoever asks for any (32768 and up, on Linux).

    One that the system gave us would be free again when we let go of it, and the next connection of another test could get it before
    the server does.  Processes that ask at the same time choose differently, by chance.
    """
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: what only lingers in TIME_WAIT is free
            port = _CHOICE.randint(_LOWEST, _HIGHEST)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
