"""One side of a session before it is one: packets are read exactly, encryption begins, a login is talked through.

On a bare socket nothing is read beyond what was asked for.  So what follows stays in the kernel: plaintext can never pass for
decrypted data (CVE-2021-23214, CVE-2021-23222), and the transport that takes the socket over misses nothing.  Under TLS the event
loop decrypts ahead of us, into a buffer that is bounded and is handed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from functools import cache
from typing import cast

import uvloop

from thanoproxy.session.link import Link
from thanoproxy.session.transport import SocketTransport
from thanoproxy.tls.handshake import HandshakeError

__all__ = ["Farewells", "Leg", "TooLong"]

_ROOM = 16384
_SHUTDOWN_SECONDS = 60.0
"""As long as Linux keeps a socket whose process has gone (tcp_fin_timeout): what a slow client has not read yet is not thrown away."""

_ABORT_SECONDS = 0.05  # a few turns of the loop


class TooLong(Exception):
    """A message that is longer than any that belongs here."""


class Leg:
    """`sock` must be non-blocking; it is this object's until `attach` or `close`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader: _Reader | None = None
        self._given = False
        self._unread = b""

    @property
    def tls(self) -> bool:
        return self._reader is not None

    @property
    def transport(self) -> asyncio.Transport | None:
        """The encrypted transport; None where there is none."""
        return None if self._reader is None else self._reader.transport

    @property
    def reader(self) -> _Reader | None:
        """Who listens to the encrypted transport; None where there is none."""
        return self._reader

    @property
    def ssl_object(self) -> ssl.SSLObject | None:
        return None if self.transport is None else self.transport.get_extra_info("ssl_object")

    # Reading.  Whoever hangs up meanwhile raises `ConnectionError`.

    async def exactly(self, size: int) -> bytes:
        head, self._unread = self._unread[:size], self._unread[size:]
        if len(head) == size:
            return head
        if self._reader is not None:
            try:
                return head + await self._reader.take(size - len(head))
            except ConnectionError:
                self.unread(head)
                raise
        parts = bytearray(head)
        while len(parts) < size:
            part = await asyncio.get_running_loop().sock_recv(self._sock, size - len(parts))
            if not part:
                raise ConnectionAbortedError("the connection was closed")
            parts += part
        return bytes(parts)

    async def message(self, limit: int) -> tuple[int, bytes]:
        """The next typed message, as (type, body).  Raises `TooLong` without having read the body."""
        head = await self.exactly(5)
        length = int.from_bytes(head[1:], "big")
        if not 4 <= length <= limit:
            self.unread(head)
            raise TooLong
        try:
            return head[0], await self.exactly(length - 4)
        except ConnectionError:
            self.unread(head)
            raise

    def unread(self, data: bytes) -> None:
        """Put back what was read too early; it is read again, or goes to the session."""
        self._unread = data + self._unread

    async def peek(self) -> int:
        """The first byte of a bare socket, which stays unread."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                first = self._sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                readable = loop.create_future()
                loop.add_reader(self._sock, _wake, readable)
                try:
                    await readable
                finally:
                    loop.remove_reader(self._sock)
                continue
            if not first:
                raise ConnectionAbortedError("the connection was closed")
            return first[0]

    def waiting(self) -> bool:
        """Whether more than was read has arrived on a bare socket."""
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False

    # Writing.

    async def write(self, data: bytes) -> None:
        if self._reader is not None:
            self._reader.transport.write(data)
        else:
            await asyncio.get_running_loop().sock_sendall(self._sock, data)

    # Encryption.  A handshake that fails raises `ssl.SSLError` or another `OSError`, and closes the leg.

    async def accept_tls(self, context: ssl.SSLContext) -> None:
        with self._sock.dup() as spare:  # the loop closes its own as soon as the handshake fails
            reader = self._give()
            try:
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: reader, self._sock, ssl=context, ssl_shutdown_timeout=_SHUTDOWN_SECONDS
                )
            except HandshakeError as problem:
                with contextlib.suppress(OSError):
                    spare.send(problem.alert)
                raise
        self._reader = reader

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        reader = self._give()
        await asyncio.get_running_loop().create_connection(
            lambda: reader, sock=self._sock, ssl=context, server_hostname=host, ssl_shutdown_timeout=_SHUTDOWN_SECONDS
        )
        self._reader = reader

    def _give(self) -> _Reader:
        """From now on the socket is the event loop's, however the handshake ends."""
        self._given = True
        return _Reader()

    # The end of this object: the session takes over, or nobody does.

    def attach(self, link: Link) -> None:
        """Make `link` this side's protocol.  Nothing reaches it before `release`, or the loop's next turn."""
        if self._reader is None:
            loop = asyncio.get_running_loop()
            _transport(isinstance(loop, uvloop.Loop))(loop, self._sock, link)
        else:
            self._reader.transport.set_protocol(link)
            link.connection_made(self._reader.transport)

    def release(self, link: Link) -> None:
        """Give `link` what had arrived before it was attached."""
        reader = self._reader
        rest = self._unread + (b"" if reader is None else bytes(reader.buffer))
        if reader is not None:
            reader.resume()
            if reader.full:
                link.pause_writing()
        if rest:
            link.data_received(rest)
        if reader is not None and reader.lost:
            link.connection_lost(reader.problem)

    def close(self) -> None:
        """Close behind what was written."""
        if self._reader is not None:
            self._reader.transport.close()
        elif not self._given:
            self._sock.close()


class Farewells:
    """Transports that were closed, and wait for the other side: to read what is left, or to return TLS's goodbye.  None waits longer
    than we live."""

    def __init__(self) -> None:
        self._waiting: set[Link | _Reader] = set()

    def add(self, *ends: Link | _Reader | None) -> None:
        """Their transports were closed."""
        for end in ends:
            if end is not None and not end.lost:
                self._waiting.add(end)
                end.on_gone = self._waiting.discard

    async def end(self) -> None:
        for end in self._waiting:
            end.transport.abort()
        if self._waiting:
            await asyncio.sleep(_ABORT_SECONDS)


class _Reader(asyncio.Protocol):
    """Keeps what TLS has decrypted until somebody asks for it; a peer that sends ahead is made to wait."""

    def __init__(self) -> None:
        self.transport = cast(asyncio.Transport, None)
        self.buffer = bytearray()
        self.full = False
        self.lost = False
        self.on_gone: Callable[[_Reader], None] = _nobody
        self.problem: Exception | None = None
        self._ended = False
        self._paused = False
        self._arrived: asyncio.Future[None] | None = None

    async def take(self, size: int) -> bytes:
        while len(self.buffer) < size:
            if self.lost or self._ended:
                raise ConnectionAbortedError("the connection was closed")
            self.resume()
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        taken = bytes(self.buffer[:size])
        del self.buffer[:size]
        return taken

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if len(self.buffer) > _ROOM and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._ended = True
        self._wake()

    def connection_lost(self, problem: Exception | None) -> None:
        self.lost = True
        self.problem = problem
        self._wake()
        self.on_gone(self)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False

    def _wake(self) -> None:
        if self._arrived is not None:
            _wake(self._arrived)


@cache
def _transport(on_uvloop: bool) -> type[SocketTransport]:
    """The fastest there is: `polled` is not compiled everywhere, and not for every uvloop."""
    if on_uvloop:
        with contextlib.suppress(ImportError):
            from thanoproxy.session.polled import PolledTransport

            return PolledTransport
    return SocketTransport


def _nobody(_: _Reader) -> None:
    pass


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
