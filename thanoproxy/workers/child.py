"""One worker process as its parent sees it: started, talked to over its socket, known to be dead when it is, and killed when it hangs."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import msgspec

from thanoproxy.errors import Canceled, WorkerFailure
from thanoproxy.workers import jobs
from thanoproxy.workers.line import Line
from thanoproxy.workers.process import NotStarted, Start, Started
from thanoproxy.workers.pulse import LOOKS, Pulse
from thanoproxy.workers.replies import raise_failed
from thanoproxy.workers.settings import WorkerSettings
from thanoproxy.workers.spawning import end, how_it_ended, spawn

__all__ = ["Child", "died"]

START_SECONDS = 180.0
"""torch is a gigabyte of libraries: on a cold disk its import takes a minute."""

STOP_SECONDS = 5.0

log = logging.getLogger(__name__)

_decode_answer = msgspec.json.Decoder(Started | NotStarted).decode


class Child:
    """A running worker process.  Made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process, line: Line, socket: str, started: Started, hang_after: float) -> None:
        self.line = line
        self.socket = socket
        self.started = started
        self._process = process
        self._hang_after = hang_after
        self._hung: str | None = None

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
        return cls(process, line, socket, started, settings.hang_after)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def run(self) -> str:
        """Pass on replies until the process is gone; then every job it had has failed with `WorkerFailure`."""
        ended = ""
        watching = asyncio.create_task(self._watch(), name="pulse")
        try:
            await self.line.run()
        finally:
            watching.cancel()
            # No longer connected, it is of no use, alive or not.
            status = await end(self._process, 0.2)
            ended = self._hung or how_it_ended(status)
            self.line.over(died(ended))
        return ended

    async def stop(self) -> None:
        """End the process; its jobs fail with `Canceled`."""
        self.line.over(Canceled("the workers were stopped"))
        await end(self._process, STOP_SECONDS)

    async def _watch(self) -> None:
        """Kill the process once it hangs."""
        if not self._hang_after:
            return
        pulse, answers = Pulse(), list[jobs.Reply]()
        while pulse.problem is None:
            answers.clear()
            self.line.send(jobs.Ping("pulse"), answers.append)
            await asyncio.sleep(self._hang_after / LOOKS)
            pulse = pulse.after(next((answer.at_work for answer in answers if isinstance(answer, jobs.Pong)), None))
        self._hung = f"{pulse.problem} for {self._hang_after:g} seconds."
        log.error("worker process %d hangs and is killed: %s", self.pid, self._hung)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


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
