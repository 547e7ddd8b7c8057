"""One worker process as its parent sees it: started, talked to over its socket, and known to be dead when it is."""

from __future__ import annotations

import asyncio

import msgspec

from thanoproxy.errors import Canceled, WorkerFailure
from thanoproxy.workers import jobs
from thanoproxy.workers.line import Line
from thanoproxy.workers.process import NotStarted, Start, Started
from thanoproxy.workers.replies import raise_failed
from thanoproxy.workers.settings import WorkerSettings
from thanoproxy.workers.spawning import end, how_it_ended, spawn

__all__ = ["Child", "died"]

START_SECONDS = 180.0
"""torch is a gigabyte of libraries: on a cold disk its import takes a minute."""

STOP_SECONDS = 5.0

_decode_answer = msgspec.json.Decoder(Started | NotStarted).decode


class Child:
    """A running worker process.  Made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process, line: Line, socket: str, started: Started) -> None:
        self.line = line
        self.socket = socket
        self.started = started
        self._process = process

    @classmethod
    async def start(cls, settings: WorkerSettings, device: str, socket: str) -> Child:
        """Start a process for `device` that listens on `socket`, and connect.

        The socket's folder is the pool's own, which the process removes if this one is killed.

        Raises what the process says is wrong with the settings, or `WorkerFailure`.
        """
        process = await spawn("thanoproxy.workers.process")
        try:
            assert process.stdin is not None, "a pipe"
            assert process.stdout is not None, "a pipe"
            process.stdin.write(msgspec.json.encode(Start(settings, device, socket)) + b"\n")
            async with asyncio.timeout(START_SECONDS):
                started = _read_answer(await process.stdout.readline())
                line = await Line.connect(socket)
        except BaseException as error:
            await end(process, 0)
            if isinstance(error, (OSError, TimeoutError)):
                raise WorkerFailure("a worker process did not start", detail=str(error) or type(error).__name__) from error
            raise
        return cls(process, line, socket, started)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def run(self) -> str:
        """Pass on replies until the process is gone; then every job it had has failed with `WorkerFailure`."""
        ended = ""
        try:
            await self.line.run()
        finally:
            # No longer connected, it is of no use, alive or not.
            ended = how_it_ended(await end(self._process, 0.2))
            self.line.over(died(ended))
        return ended

    async def stop(self) -> None:
        """End the process; its jobs fail with `Canceled`."""
        self.line.over(Canceled("the workers were stopped"))
        await end(self._process, STOP_SECONDS)


def died(detail: str | None) -> WorkerFailure:
    """What the jobs of a worker that is gone fail with."""
    return WorkerFailure("the worker process died", detail=detail, hint="The proxy has started another; try again.")


def _read_answer(line: bytes) -> Started:
    if not line:
        raise WorkerFailure("a worker process died while it started", hint="The proxy's log has what it printed.")
    answer = _decode_answer(line)
    if isinstance(answer, NotStarted):
        raise_failed(jobs.Failed("start", answer.failure))
    assert isinstance(answer, Started), "the other answer was raised"
    return answer
