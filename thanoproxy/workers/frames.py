"""Frames on the socket between a front and a worker: four bytes of length (big-endian), then one msgpack struct of `jobs`."""

from __future__ import annotations

import asyncio

from thanoproxy.errors import FeatureNotSupported
from thanoproxy.workers import jobs

__all__ = ["MAX_FRAME", "pack", "read_frame"]

MAX_FRAME = 1 << 30


def pack(message: jobs.Request | jobs.Reply) -> bytes:
    """The frame that carries `message`.  Raises `FeatureNotSupported` for one beyond `MAX_FRAME`: send fewer images at a time."""
    payload = jobs.encode(message)
    if len(payload) > MAX_FRAME:
        raise FeatureNotSupported(f"a batch of images has {len(payload)} bytes; the limit is {MAX_FRAME}")
    return len(payload).to_bytes(4, "big") + payload


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """The next frame's payload; None where the peer has closed, be it in the middle of a frame."""
    try:
        size = int.from_bytes(await reader.readexactly(4), "big")
        assert size <= MAX_FRAME, "the peer is our own and keeps the limit"
        return await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
