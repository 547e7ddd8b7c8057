"""A decode process: `python -m thanoproxy.workers.decoder`, started by `thanoproxy.workers.decoding` for one loader thread of a worker.

It is asked on a socket and answers there; pixels lie in memory that both have mapped.  When its standard input or the socket closes, its
worker is gone, and so is it.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import socket
import sys
from typing import TYPE_CHECKING

import msgspec

from thanoproxy.errors import InternalError, ThanoError
from thanoproxy.models.preprocessing import Preprocessing
from thanoproxy.workers import jobs
from thanoproxy.workers.lifeline import end_with_stdin, ignore_signals
from thanoproxy.workers.memory import keep_freed_memory
from thanoproxy.workers.settings import WorkerSettings

if TYPE_CHECKING:
    import torch

    from thanoproxy.images import Sources

__all__ = ["Crop", "Failed", "Pixels", "Ready", "Scale", "main", "receive", "send"]


class Crop(msgspec.Struct, frozen=True, tag="crop"):
    """Read row `row`'s image: see `thanoproxy.engine.pixels.read_cropped`."""

    image: jobs.Image
    row: int
    preprocessing: Preprocessing


class Scale(msgspec.Struct, frozen=True, tag="scale"):
    """Decode and scale what was read already."""

    encoded: bytes
    preprocessing: Preprocessing


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The first answer, to nothing: what kills the process from now on may be the image."""


class Pixels(msgspec.Struct, frozen=True, tag="pixels"):
    """They lie at the beginning of the shared memory: uint8 of this shape."""

    shape: tuple[int, ...]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """What is wrong with the image."""

    failure: jobs.Failure


encode = msgspec.msgpack.Encoder().encode
_decode_request = msgspec.msgpack.Decoder(Crop | Scale).decode


def send(to: socket.socket, message: msgspec.Struct) -> None:
    """A frame: four bytes of length, then a struct."""
    payload = encode(message)
    to.sendall(b"".join((len(payload).to_bytes(4, "big"), payload)))


def receive(of: socket.socket) -> bytes:
    """The next frame's payload.  Raises `ConnectionError` where the other side has closed."""
    return _exactly(of, int.from_bytes(_exactly(of, 4), "big"))


def _exactly(of: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    at, view = 0, memoryview(data)
    while at < size:
        got = of.recv_into(view[at:])
        if not got:
            raise ConnectionResetError
        at += got
    return bytes(data)


def main() -> None:
    """Serve until the worker is gone.  Arguments: the descriptors of the socket and of the shared memory."""
    ignore_signals()
    faulthandler.enable()
    keep_freed_memory()
    end_with_stdin()
    worker, memory = socket.socket(fileno=int(sys.argv[1])), _Memory(int(sys.argv[2]))
    try:
        settings = msgspec.msgpack.decode(receive(worker), type=WorkerSettings)
        sources = _prepare(settings)
        send(worker, Ready())
        while True:
            send(worker, _answer(_decode_request(receive(worker)), sources, memory))
    except ConnectionError:
        return


def _prepare(settings: WorkerSettings) -> Sources:
    import torch

    from thanoproxy.images import open_sources

    torch.set_num_threads(1)
    return open_sources(settings.image_roots)


def _answer(request: Crop | Scale, sources: Sources, memory: _Memory) -> Pixels | Failed:
    from thanoproxy.engine import pixels
    from thanoproxy.images.loader import finish

    try:
        if isinstance(request, Crop):
            assert request.image is not None, "NULL is in no chunk"
            found = finish(pixels.read_cropped(sources, request.image, request.row, request.preprocessing))
        else:
            found = pixels.decode_scaled(request.encoded, request.preprocessing)
        memory.put(found)
    except ThanoError as error:
        return Failed(jobs.Failure(**error.to_fields()))  # type: ignore[arg-type]
    except Exception as error:  # the next image may be well
        fields = InternalError("an image could not be read", detail=repr(error)).to_fields()
        return Failed(jobs.Failure(**fields))  # type: ignore[arg-type]
    return Pixels(tuple(found.shape))


class _Memory:
    """The shared memory, as large as the largest image so far."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None

    def put(self, pixels: torch.Tensor) -> None:
        import torch

        if self._map is None or len(self._map) < pixels.nbytes:
            os.ftruncate(self._descriptor, pixels.nbytes)
            self._map = mmap.mmap(self._descriptor, pixels.nbytes)
        torch.frombuffer(self._map, dtype=torch.uint8, count=pixels.nbytes).view(pixels.shape).copy_(pixels)


if __name__ == "__main__":
    main()
