"""What happens on a new socket before there is a session: encryption requests, cancel requests, the StartupMessage.

All of it is read from the bare socket, exactly the bytes that belong to each packet, so nothing that arrived in plaintext can later
be taken for decrypted data (CVE-2021-23214), and a packet's claimed length is checked before anything is allocated for it.
"""

from __future__ import annotations

import asyncio
import socket

from thanoproxy.errors import FeatureNotSupported, ProtocolViolation, ThanoError
from thanoproxy.wire import messages
from thanoproxy.wire.startup import SSL_REQUEST, Cancel, Startup, packet_size, read_packet

__all__ = ["Refused", "greet"]


class Refused(Exception):
    """The connection ends here; `reply` is the last that the client is told."""

    def __init__(self, reply: bytes = b"") -> None:
        super().__init__()
        self.reply = reply


async def greet(sock: socket.socket) -> Startup | Cancel:
    """The client's StartupMessage or CancelRequest.  Raises `Refused` where it is neither."""
    seen = set[int]()
    while True:
        packet = await _read_packet(sock)
        request = read_packet(packet)
        if not isinstance(request, int):
            return request
        if request in seen:
            # A second one is taken for a protocol version, as by the server's ProcessStartupPacket.
            version = f"{request >> 16}.{request & 0xFFFF}"
            raise Refused(_fatal(FeatureNotSupported(f"unsupported frontend protocol {version}")))
        seen.add(request)
        if _waiting(sock):
            what = "SSL" if request == SSL_REQUEST else "GSSAPI encryption"
            raise Refused(b"N" + _fatal(ProtocolViolation(f"received unencrypted data after {what} request")))
        await asyncio.get_running_loop().sock_sendall(sock, b"N")


async def _read_packet(sock: socket.socket) -> bytes:
    head = await _exactly(sock, 4)
    size = packet_size(head)
    if size is None:
        raise Refused
    return head + await _exactly(sock, size - 4)


async def _exactly(sock: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = await asyncio.get_running_loop().sock_recv(sock, size - len(parts))
        if not part:
            raise Refused
        parts += part
    return bytes(parts)


def _waiting(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def _fatal(error: ThanoError) -> bytes:
    return messages.error_response(error, "FATAL")
