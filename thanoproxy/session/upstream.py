"""Reaching the PostgreSQL behind us: a session's own connection, and the short ones that carry a CancelRequest.

What sslmode means is in `_ATTEMPTS`, after libpq (https://www.postgresql.org/docs/18/libpq-ssl.html): ways to be tried in turn.  The
next one's turn comes where the handshake fails, or where the server refuses the StartupMessage before it asks for a login.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass
from typing import Any, Literal

from thanoproxy.session.leg import Leg
from thanoproxy.tls.handshake import ALPN
from thanoproxy.tls.upstream import UpstreamTls
from thanoproxy.wire.startup import SSL_REQUEST, Cancel, request

__all__ = ["Route", "Upstream"]

_CANCEL_TIMEOUT = 10.0

Way = Literal["plain", "tls", "either"]
"""`either`: TLS, or plain if the server says that it has none."""

_ATTEMPTS: dict[str, tuple[Way, ...]] = {
    "disable": ("plain",),
    "allow": ("plain", "tls"),
    "prefer": ("either", "plain"),
    "require": ("tls",),
    "verify-ca": ("tls",),
    "verify-full": ("tls",),
}


_NO_TLS = UpstreamTls()


@dataclass(frozen=True, slots=True)
class Route:
    """How a session reached its server.  Its CancelRequests go the same way, to the same address if the name has several."""

    family: int
    address: Any
    tls: bool


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where the server is; `path` is its unix socket, if it has one for us, which is never encrypted."""

    host: str
    port: int
    path: str | None = None
    tls: UpstreamTls = _NO_TLS
    mirror: bool = False
    """Whether a session's connection is encrypted exactly if its client's is, whatever sslmode would try."""

    @property
    def may_encrypt(self) -> bool:
        return self._ways(client_tls=True) != ("plain",)

    async def open(self, packet: bytes, *, client_tls: bool, vouched: bool = False) -> tuple[Leg, Route]:
        """A connection on which the StartupMessage `packet` was sent; `vouched` if we know whose it is.  Raises `OSError`."""
        ways = self._ways(client_tls)
        context = self.tls.vouching if vouched and self.tls.vouching is not None else self.tls.context
        for way in ways[:-1]:
            with contextlib.suppress(OSError):
                leg, route = await self._begin(way, packet, context)
                # After an N the connection is as plain as the next would be.
                if (way == "either" and not leg.tls) or not await _refuses(leg):
                    return leg, route
        return await self._begin(ways[-1], packet, context)

    async def _begin(self, way: Way, packet: bytes, context: ssl.SSLContext | None) -> tuple[Leg, Route]:
        sock, address = await self._connect()
        leg = Leg(sock)
        try:
            await self._encrypt(leg, way, context)
            await leg.write(packet)
        except BaseException:
            leg.close()
            raise
        return leg, Route(sock.family, address, leg.tls)

    async def cancel(self, cancel: Cancel, route: Route | None = None) -> None:
        """Send a CancelRequest and return once the server has closed the connection, which says that it has signalled the backend."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CANCEL_TIMEOUT):
                await self._send_cancel(cancel.encode(), route)

    async def _send_cancel(self, packet: bytes, route: Route | None) -> None:
        if route is None:
            sock, _ = await self._connect()
            way = self._ways(client_tls=False)[0]
        else:
            sock = await _connected(socket.socket(route.family), route.address)
            way = "tls" if route.tls else "plain"
        leg = Leg(sock)
        try:
            await self._encrypt(leg, way, self.tls.context)
            await leg.write(packet)
            await leg.exactly(1)
        finally:
            leg.close()

    def _ways(self, client_tls: bool) -> tuple[Way, ...]:
        if self.path is not None:
            return ("plain",)
        if self.mirror:
            return ("tls",) if client_tls else ("plain",)
        return _ATTEMPTS[self.tls.mode]

    async def _connect(self) -> tuple[socket.socket, Any]:
        """A socket connected to the first address that answers, and that address."""
        if self.path is not None:
            return await _connected(socket.socket(socket.AF_UNIX), self.path), self.path
        problem: OSError | None = None
        addresses = await asyncio.get_running_loop().getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in addresses:
            try:
                sock = await _connected(socket.socket(family, kind, protocol), address)
            except OSError as error:
                problem = error
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return sock, address
        raise problem or OSError(f"{self.host} has no address")

    async def _encrypt(self, leg: Leg, way: Way, context: ssl.SSLContext | None) -> None:
        """SSLRequest and the handshake, where `way` wants them.  Raises `OSError`."""
        if way == "plain":
            return
        assert context is not None, "sslmode is not disable"
        if self.tls.direct:
            await self._begin_with_tls(leg, context)
            return
        await leg.write(request(SSL_REQUEST))
        answer = await leg.exactly(1)
        if leg.waiting():
            # Whatever it is, nobody has vouched for it (CVE-2021-23222); an error text least of all (CVE-2024-10977).
            raise ConnectionError("the server answered SSLRequest with more than one byte")
        if answer == b"S":
            await leg.start_tls(context, self.host)
        elif answer != b"N":
            raise ConnectionError("the server did not understand SSLRequest")
        elif way == "tls":
            wanted = "upstream.mirror_tls" if self.mirror else f"sslmode {self.tls.mode}"
            raise ConnectionError(f"the server does not support TLS, which {wanted} needs")

    async def _begin_with_tls(self, leg: Leg, context: ssl.SSLContext) -> None:
        await leg.start_tls(context, self.host)
        if leg.ssl_object is None or leg.ssl_object.selected_alpn_protocol() != ALPN:
            raise ConnectionError("the server did not agree on protocol postgresql, which sslnegotiation=direct needs")


async def _connected(sock: socket.socket, address: Any) -> socket.socket:
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _refuses(leg: Leg) -> bool:
    """Whether the server's first answer is an error; the leg is closed then, else the answer is still to be read."""
    try:
        kind = await leg.exactly(1)
    except BaseException:
        leg.close()
        raise
    if kind == b"E":
        leg.close()
        return True
    leg.unread(kind)
    return False
