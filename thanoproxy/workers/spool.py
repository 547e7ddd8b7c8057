"""The rows of a BUILD on their way to a worker: a file that a front appends to and a worker reads.

A query may give millions of rows, so neither side holds them: the front buffers `BUFFER` bytes, the worker keeps eight bytes
a row (where its record begins) and reads a record when it needs it.

A record is four bytes of length (big-endian), then msgpack [image, label].  The file ends with a record of length zero: one
without it was never finished.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec

from thanoproxy.errors import InternalError, writing
from thanoproxy.workers.jobs import Image

__all__ = ["MAKE_ROOM", "Row", "Spool", "SpoolWriter", "half_written"]

BUFFER = 1024 * 1024
PREFIX = "thanoproxy-spool-"

MAKE_ROOM = "Make room there, or start the proxy with another TMPDIR."
"""A hint for what does not fit into the folder for temporary files."""


class Row(NamedTuple):
    """One training example as the query gave it."""

    image: Image
    label: str


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[Any, str]).decode  # str, bytes or None, which only msgpack tells apart


def half_written(checkpoint: str) -> str:
    """Where a checkpoint is written before it takes the place of the one before."""
    return checkpoint + ".tmp"


class SpoolWriter:
    """A new spool file in `directory` (default: the system's own for temporary files), readable by its owner alone.

    `checkpoint` is where the job may keep how far it is; a worker that dies leaves it, and perhaps a half-written one, for the next.
    As a context manager it removes them all in the end, so the block must last as long as the job that reads it:

        with SpoolWriter() as spool:
            spool.add(image, label)
            spool.finish()
            async for report in pool.build(jobs.Build(…, spool=spool.path, …)): …

    Raises `FileFailure` where the disk is full.
    """

    def __init__(self, directory: str | None = None) -> None:
        with _writing(directory or tempfile.gettempdir()):
            descriptor, self.path = tempfile.mkstemp(prefix=PREFIX, dir=directory)
        self._file = os.fdopen(descriptor, "wb", buffering=BUFFER)
        self.checkpoint = self.path + ".checkpoint"
        self.rows = 0
        self.size_bytes = 0

    def add(self, image: Image, label: str) -> None:
        """Append one row."""
        record = _encode((image, label))
        with _writing(self.path):
            self._file.write(len(record).to_bytes(4, "big"))
            self._file.write(record)
        self.rows += 1
        self.size_bytes += 4 + len(record)

    def finish(self) -> None:
        """All rows are in: write the end mark and close the file."""
        with _writing(self.path):
            self._file.write(bytes(4))
            self._file.close()

    def discard(self) -> None:
        """Remove the file, finished or not, and what a worker left of its checkpoints."""
        # What is still buffered need not reach a disk that may be full.
        with contextlib.suppress(OSError):
            self._file.close()
        for path in (self.path, self.checkpoint, half_written(self.checkpoint)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.discard()


def _writing(path: str) -> AbstractContextManager[None]:
    detail = f"They are written to {path} until the statement is over."
    return writing("the rows of the query cannot be kept", detail=detail, hint=MAKE_ROOM)


class Spool:
    """A finished spool, for reading.  `rows()` goes through it once and builds the index that `row(n)` needs.

    Safe to read from several threads: each read names its own offset.
    """

    def __init__(self, path: str) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InternalError("the rows of this job are gone", detail=f"{path}: {error.strerror}") from error
        self._offsets = array("Q")

    def rows(self) -> Iterator[Row]:
        """Every row in order.  Raises `InternalError` if the spool was never finished."""
        self._offsets = array("Q")
        with open(self._descriptor, "rb", buffering=BUFFER, closefd=False) as file:
            file.seek(0)
            at = 0
            while size := self._length(file.read(4)):
                self._offsets.append(at)
                yield self._row(file.read(size), size)
                at += 4 + size

    def row(self, index: int) -> Row:
        """The row of that number, counting from 0."""
        at = self._offsets[index]
        size = self._length(os.pread(self._descriptor, 4, at))
        return self._row(os.pread(self._descriptor, size, at + 4), size)

    def close(self) -> None:
        os.close(self._descriptor)

    def _length(self, head: bytes) -> int:
        if len(head) != 4:
            raise InternalError("the rows of this job are incomplete")
        return int.from_bytes(head, "big")

    def _row(self, record: bytes, size: int) -> Row:
        if len(record) != size:
            raise InternalError("the rows of this job are incomplete")
        return Row(*_decode(record))
