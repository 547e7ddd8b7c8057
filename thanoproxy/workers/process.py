"""A worker process: `python -m thanoproxy.workers.process`, started by `thanoproxy.workers.child`.

Its standard input is its lifeline: the first line is a `Start` as JSON, and when the pipe closes, because the parent is done
or was killed, the process ends.  Its standard output carries one line of JSON, `Started` or `NotStarted`.  Then it serves frames
(`thanoproxy.workers.frames`) on a Unix socket in a folder that only its owner can enter, to any number of fronts.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import shutil
import sys
import threading
from typing import TYPE_CHECKING

import msgspec

from thanoproxy.errors import ThanoError
from thanoproxy.workers import jobs
from thanoproxy.workers.frames import pack, read_frame
from thanoproxy.workers.lifeline import ignore_signals
from thanoproxy.workers.memory import keep_freed_memory
from thanoproxy.workers.settings import WorkerSettings
from thanoproxy.workers.spawning import say, take_stdout

if TYPE_CHECKING:
    from thanoproxy.workers.device_loop import DeviceLoop

__all__ = ["NotStarted", "Start", "Started", "main"]

DEVICE_LOST = 70  # EX_SOFTWARE


class Start(msgspec.Struct, frozen=True):
    """What the parent says first: on which device to work, and where, in a folder of its own, to listen."""

    settings: WorkerSettings
    device: str
    socket: str


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The worker listens.  `devices` is how many devices of this kind the machine has."""

    device: str
    devices: int


class NotStarted(msgspec.Struct, frozen=True, tag="not_started"):
    """It cannot work with these settings."""

    failure: jobs.Failure


def main() -> None:
    """Serve until standard input closes."""
    ignore_signals()
    faulthandler.enable()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s worker[%(process)d] %(levelname)s %(message)s")
    answer = take_stdout()
    keep_freed_memory()
    start = msgspec.json.decode(sys.stdin.buffer.readline(), type=Start)
    threading.Thread(target=_end_with_stdin, args=(os.path.dirname(start.socket),), name="lifeline", daemon=True).start()
    try:
        device_loop = _make(start)
    except ThanoError as error:
        say(answer, NotStarted(jobs.Failure(**error.to_fields())))  # type: ignore[arg-type]
        sys.exit(1)
    asyncio.run(_serve(device_loop, start.socket, answer))


def _make(start: Start) -> DeviceLoop:
    from thanoproxy.workers.device_loop import DeviceLoop

    return DeviceLoop(start.settings, start.device, on_fatal=lambda error: os._exit(DEVICE_LOST))


def _end_with_stdin(folder: str) -> None:
    # A byte is the parent's goodbye; the bare end of the file says that it was killed and could clean up nothing.
    if not os.read(0, 1):
        shutil.rmtree(folder, ignore_errors=True)
    # No clean-up: nothing here needs it, and a batch under way could hold it up.
    os._exit(0)


async def _serve(device_loop: DeviceLoop, socket: str, answer: int) -> None:
    async def serve_front(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _serve_front(device_loop, reader, writer)

    server = await asyncio.start_unix_server(serve_front, socket)
    say(answer, Started(device_loop.device.name, device_loop.device.siblings))
    async with server:
        await server.serve_forever()


async def _serve_front(device_loop: DeviceLoop, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One front's connection; when it closes, everything of its is canceled."""
    owner, loop = object(), asyncio.get_running_loop()

    def send(message: jobs.Reply) -> None:
        if not writer.is_closing():
            writer.write(pack(message))

    def reply(message: jobs.Reply) -> None:
        loop.call_soon_threadsafe(send, message)

    try:
        while (frame := await read_frame(reader)) is not None:
            device_loop.submit(jobs.decode_request(frame), reply, owner)
    except msgspec.DecodeError:
        logging.exception("a front sent what is no request")
    finally:
        device_loop.drop(owner)
        writer.close()


if __name__ == "__main__":
    main()
