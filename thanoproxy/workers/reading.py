"""Reading files with rows, each in a process of its own that ends with it (`thanoproxy.workers.reading_process`).

What is read is a stranger's, it may be large, and parsing it is Python's own work for minutes: neither the event loop nor a device's
thread may wait for it, or die of it.  The pipe from the process is the whole flow control: nobody reads, nothing is read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import msgspec

from thanoproxy.errors import WorkerFailure
from thanoproxy.files.table import Field, Format, Wanted
from thanoproxy.workers import jobs
from thanoproxy.workers.frames import read_frame
from thanoproxy.workers.replies import raise_failed
from thanoproxy.workers.spawning import end, how_it_ended, spawn

__all__ = ["Field", "FileReader", "Format", "Opened", "Over", "Part", "Reading", "Reply"]

_LEFT = 1 << 16

AT_ONCE = 4
"""Processes of one front that look at their file for the first time; more of them would only take each other's cores."""


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """It is there, and its rows are like this."""

    fields: list[Field]
    format: Format


class Part(msgspec.Struct, frozen=True, tag="part"):
    """Some of its rows, cut anywhere."""

    data: bytes


class Over(msgspec.Struct, frozen=True, tag="over"):
    """That was all; `remark` is for whoever asked."""

    remark: str | None


Reply = Opened | Part | Over | jobs.Failed
_decode = msgspec.msgpack.Decoder(Reply).decode


class Reading:
    """A file on its way, made by `FileReader.open`; `close` ends it at any time.  `remark` is known behind the last part."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.fields: list[Field] = []
        self.format = Format("text")
        self.remark: str | None = None

    async def begin(self, wanted: Wanted) -> None:
        assert self._process.stdin is not None, "a pipe"
        self._process.stdin.write(msgspec.json.encode(wanted) + b"\n")
        opened = await self._next()
        assert isinstance(opened, Opened), "the first reply"
        self.fields, self.format = opened.fields, opened.format

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """Its rows, cut anywhere.  Raises `ThanoError`."""
        while isinstance(reply := await self._next(), Part):
            yield reply.data
        assert isinstance(reply, Over), "the last reply"
        self.remark = reply.remark

    async def close(self) -> None:
        assert self._process.stdin is not None, "a pipe"
        assert self._process.stdout is not None, "a pipe"
        self._process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        # A pipe with something in it that nobody reads would keep it from being over.
        while await self._process.stdout.read(_LEFT):
            pass
        await self._process.wait()

    async def _next(self) -> Reply:
        assert self._process.stdout is not None, "a pipe"
        frame = await read_frame(self._process.stdout)
        if frame is None:
            raise WorkerFailure("the process that reads the file died", detail=how_it_ended(await end(self._process, 1)))
        reply = _decode(frame)
        if isinstance(reply, jobs.Failed):
            raise_failed(reply)
        return reply


class FileReader:
    """Of one front; the folders are those that any role may have files of read."""

    def __init__(self, image_roots: tuple[str, ...], file_roots: tuple[str, ...]) -> None:
        self._image_roots = image_roots
        self._file_roots = file_roots
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def open(self, source: str, image_col: str | None = None, label_col: str | None = None) -> Reading:
        """Raises `FileUnavailable` and what else is wrong with the file, or `WorkerFailure`."""
        wanted = Wanted(source=source, image_roots=self._image_roots, file_roots=self._file_roots, image_col=image_col, label_col=label_col)
        async with self._turn:  # not for longer: what has been opened may wait for another session's lock
            try:
                reading = Reading(await spawn("thanoproxy.workers.reading_process"))
            except OSError as error:
                raise WorkerFailure("a process that reads the file did not start", detail=str(error)) from error
            try:
                await reading.begin(wanted)
            except BaseException:
                await reading.close()
                raise
            return reading
