"""Whose StartupMessage it is, as the server will read it."""

from __future__ import annotations

import struct

import pytest

from thanoproxy.wire.startup import Startup, read_packet


def startup(body: bytes) -> Startup:
    packet = struct.pack("!II", len(body) + 8, 196608) + body
    read = read_packet(packet)
    assert isinstance(read, Startup)
    return read


@pytest.mark.parametrize(
    ("body", "name", "same"),
    [
        (b"user\0alice\0\0", b"alice", True),
        (b"user\0alice\0\0", b"bob", False),
        (b"user\0alice\0\0", b"Alice", False),
        (b"user\0alice\0\0", None, False),
        (b"database\0alice\0\0", b"alice", False),
        # The server takes the last one.
        (b"user\0alice\0user\0bob\0\0", b"alice", False),
        (b"user\0alice\0user\0bob\0\0", b"bob", True),
        # It cuts names after 63 bytes.
        (b"user\0" + b"a" * 63 + b"\0\0", b"a" * 63, True),
        (b"user\0" + b"a" * 64 + b"\0\0", b"a" * 64, False),
        # Not text: no certificate can say this.
        (b"user\0\xff\0\0", "\ufffd".encode(), False),
    ],
)
def test_whose_it_is(body: bytes, name: bytes | None, same: bool) -> None:
    assert startup(body).is_of(name) is same
