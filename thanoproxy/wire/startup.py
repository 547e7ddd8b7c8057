"""The packets before the first typed message: SSLRequest, GSSENCRequest, CancelRequest, StartupMessage.

https://www.postgresql.org/docs/18/protocol-flow.html#PROTOCOL-FLOW-START-UP; limits as in the server's backend_startup.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

__all__ = [
    "GSSENC_REQUEST",
    "LARGEST_PACKET",
    "SSL_REQUEST",
    "Cancel",
    "Startup",
    "packet_size",
    "read_packet",
    "request",
]

_HEAD = Struct("!II")
_CANCEL, SSL_REQUEST, GSSENC_REQUEST = 80877102, 80877103, 80877104
LARGEST_PACKET = 10000
"""Bytes after the length (MAX_STARTUP_PACKET_LENGTH)."""
_LARGEST_KEY = 256
_LONGEST_NAME = 63
"""Bytes of a user's name (NAMEDATALEN)."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """A CancelRequest: the backend's process ID and its secret key, as BackendKeyData gave them."""

    pid: int
    key: bytes

    def encode(self) -> bytes:
        return _HEAD.pack(12 + len(self.key), _CANCEL) + self.pid.to_bytes(4, "big") + self.key


@dataclass(frozen=True, slots=True)
class Startup:
    """A StartupMessage, or anything the server shall judge: `packet` goes upstream as it came."""

    packet: bytes
    version: int
    parameters: dict[bytes, bytes]

    @property
    def replication(self) -> bool:
        """Whether this asks for a walsender, whose grammar is not SQL's."""
        return self.parameters.get(b"replication", b"false").lower() not in (b"false", b"off", b"no", b"0", b"f", b"n")

    @property
    def user(self) -> str:
        return self.parameters.get(b"user", b"").decode("utf-8", "replace")

    def is_of(self, name: bytes | None) -> bool:
        """Whether the server will take `name` for the user: longer ones it cuts, and then they may be somebody else's."""
        return name is not None and name == self.parameters.get(b"user") and len(name) <= _LONGEST_NAME

    @property
    def database(self) -> str:
        return self.parameters.get(b"database", b"").decode("utf-8", "replace") or self.user


def packet_size(head: bytes) -> int | None:
    """The whole packet's bytes, from its first four; None where the server would close without a word."""
    length = int.from_bytes(head[:4], "big")
    return length if 8 <= length <= LARGEST_PACKET + 4 else None


def read_packet(packet: bytes) -> Startup | Cancel | int:
    """What a whole packet says; SSL_REQUEST and GSSENC_REQUEST stand for themselves."""
    _, code = _HEAD.unpack_from(packet)
    if code == _CANCEL:
        return Cancel(int.from_bytes(packet[8:12], "big"), packet[12 : 12 + _LARGEST_KEY])
    if code in (SSL_REQUEST, GSSENC_REQUEST) and len(packet) == 8:
        return int(code)
    return Startup(packet, code, _parameters(packet))


def _parameters(packet: bytes) -> dict[bytes, bytes]:
    names = packet[8:].split(b"\0")
    # Pairs up to the empty name that ends them; what follows is for the server to refuse.
    pairs = zip(names[::2], names[1::2], strict=False)
    return {name: value for name, value in pairs if name}


def request(code: int) -> bytes:
    """The packet of SSL_REQUEST or GSSENC_REQUEST."""
    return _HEAD.pack(8, code)
