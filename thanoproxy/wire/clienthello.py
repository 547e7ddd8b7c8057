"""The first message of a TLS handshake, as far as we look into it: which protocols the client says it speaks.

RFC 8446, sections 4.1.2 (ClientHello) and 5.1 (records); RFC 7301, section 3.1 (ALPN).  Versions before TLS 1.3 have the same shape.
"""

from __future__ import annotations

__all__ = ["NO_APPLICATION_PROTOCOL", "offered_protocols"]

NO_APPLICATION_PROTOCOL = b"\x15\x03\x03\x00\x02\x02\x78"
"""The record of the fatal alert 120, which answers a client that names only protocols that are not ours."""

_HANDSHAKE, _CLIENT_HELLO, _ALPN = 22, 1, 16


def offered_protocols(data: bytes) -> list[bytes] | None:
    """What a connection's first bytes name by ALPN, nothing if they do not; None while the ClientHello is not complete.

    Raises `ValueError` for anything else, which is OpenSSL's to refuse.
    """
    message = _message(data)
    if message is None:
        return None
    hello = _Bytes(message)
    hello.take(2 + 32)  # version, random
    for width in (1, 2, 1):  # session ID, cipher suites, compression methods
        hello.vector(width)
    extensions = _Bytes(hello.vector(2) if hello.left else b"")
    while extensions.left:
        kind, content = extensions.number(2), extensions.vector(2)
        if kind == _ALPN:
            return _names(_Bytes(_Bytes(content).vector(2)))
    return []


def _message(data: bytes) -> bytes | None:
    """The body of the handshake message, which may lie in more records than one."""
    records, message = _Bytes(data), b""
    while records.left >= 5:
        if records.number(1) != _HANDSHAKE:
            raise ValueError("not a record of a handshake")
        records.take(2)  # version
        size = records.number(2)
        message += records.take(min(size, records.left))
        if message[:1] not in (b"", bytes([_CLIENT_HELLO])):
            raise ValueError("not a ClientHello")
        end = 4 + int.from_bytes(message[1:4], "big")
        if len(message) >= max(end, 4):
            return message[4:end]
    return None


def _names(protocols: _Bytes) -> list[bytes]:
    names = []
    while protocols.left:
        names.append(protocols.vector(1))
    return names


class _Bytes:
    """Bytes that are read from the front; reading past their end raises `ValueError`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise ValueError("a length that reaches too far")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> bytes:
        """What follows a length of `width` bytes."""
        return self.take(self.number(width))
