"""One worker process as its parent sees it: started, talked to over its socket, and known to be dead when it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable

import msgspec

import thanoproxy
from thanoproxy.errors import Canceled, ThanoError, WorkerFailure
from thanoproxy.workers import jobs
from thanoproxy.workers.frames import pack, read_frame
from thanoproxy.workers.process import NotStarted, Start, Started
from thanoproxy.workers.replies import raise_failed
from thanoproxy.workers.settings import WorkerSettings

__all__ = ["Child"]

START_SECONDS = 180.0
"""torch is a gigabyte of libraries: on a cold disk its import takes a minute."""

STOP_SECONDS = 5.0

log = logging.getLogger(__name__)

_decode_answer = msgspec.json.Decoder(Started | NotStarted).decode


class Child:
    """A running worker process.  Made by `start`."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, started: Started
    ) -> None:
        self.started = started
        self.rows_under_way = 0
        self.builds = 0
        self._process = process
        self._reader = reader
        self._writer = writer
        self._receivers: dict[str, Callable[[jobs.Reply], None]] = {}
        self._rows: dict[str, int] = {}
        self._why_over: ThanoError | None = None

    @classmethod
    async def start(cls, settings: WorkerSettings, device: str, folder: str, name: str) -> Child:
        """Start a process for `device` that listens in `folder` as `name`, and connect.

        The folder is the pool's own, which the process removes if this one is killed.

        Raises what the process says is wrong with the settings, or `WorkerFailure`.
        """
        socket = os.path.join(folder, name)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # the current folder is not where modules come from
            "-m",
            "thanoproxy.workers.process",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=_environment(),
            start_new_session=True,
        )
        try:
            assert process.stdin is not None, "a pipe"
            assert process.stdout is not None, "a pipe"
            process.stdin.write(msgspec.json.encode(Start(settings, device, folder, name)) + b"\n")
            async with asyncio.timeout(START_SECONDS):
                started = _read_answer(await process.stdout.readline())
                reader, writer = await asyncio.open_unix_connection(socket)
        except BaseException as error:
            await _end(process, 0)
            if isinstance(error, (OSError, TimeoutError)):
                raise WorkerFailure("a worker process did not start", detail=str(error) or type(error).__name__) from error
            raise
        return cls(process, reader, writer, started)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, request: jobs.Request, receive: Callable[[jobs.Reply], None]) -> None:
        """Hand over a request; its replies go to `receive`.  If the process dies, that is the reply."""
        if isinstance(request, jobs.Cancel):
            if self._why_over is None and request.job in self._receivers:
                self._writer.write(pack(request))
            return
        frame = pack(request)
        self._receivers[request.job] = receive
        if isinstance(request, jobs.Predict):
            self._rows[request.job] = len(request.images)
            self.rows_under_way += len(request.images)
        if self._why_over is not None:
            self._deliver(_failed(request.job, self._why_over))
            return
        self._writer.write(frame)

    async def run(self) -> None:
        """Pass on replies until the process is gone; then every job it had has failed with `WorkerFailure`."""
        try:
            while (frame := await read_frame(self._reader)) is not None:
                self._deliver(jobs.decode_reply(frame))
        except msgspec.DecodeError:
            log.exception("worker process %d sent what is no reply", self.pid)
        finally:
            # No longer connected, it is of no use, alive or not.
            self._writer.close()
            code = await _end(self._process, 0.2)
            self._over(
                WorkerFailure("the worker process died", detail=_how_it_ended(code), hint="The proxy has started another; try again.")
            )

    async def stop(self) -> None:
        """End the process; its jobs fail with `Canceled`."""
        self._over(Canceled("the workers were stopped"))
        await _end(self._process, STOP_SECONDS)

    def _over(self, why: ThanoError) -> None:
        if self._why_over is None:
            self._why_over = why
        for job in list(self._receivers):
            self._deliver(_failed(job, self._why_over))

    def _deliver(self, reply: jobs.Reply) -> None:
        if isinstance(reply, jobs.Progress):
            receive = self._receivers.get(reply.job)
        else:
            receive = self._receivers.pop(reply.job, None)
            self.rows_under_way -= self._rows.pop(reply.job, 0)
        if receive is not None:
            receive(reply)


def _read_answer(line: bytes) -> Started:
    if not line:
        raise WorkerFailure("a worker process died while it started", hint="The proxy's log has what it printed.")
    answer = _decode_answer(line)
    if isinstance(answer, NotStarted):
        raise_failed(jobs.Failed("start", answer.failure))
    assert isinstance(answer, Started), "the other answer was raised"
    return answer


def _environment() -> dict[str, str]:
    """This process's own, with the package in reach however this process came by it.

    Compute threads that wait for each other sleep instead of spinning: it costs nothing on a quiet machine, and a spinning thread
    takes its core from the loader threads, the proxy and PostgreSQL beside it (a BUILD took twice as long next to a busy process).
    """
    package = os.path.dirname(os.path.dirname(os.path.abspath(thanoproxy.__file__)))
    paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


async def _end(process: asyncio.subprocess.Process, patience: float) -> int:
    """Close the lifeline, wait, and kill what does not go by itself; the exit status."""
    if process.stdin is not None and not process.stdin.is_closing():
        process.stdin.write(b"\n")
        process.stdin.close()
    try:
        async with asyncio.timeout(patience):
            return await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    return await process.wait()


def _how_it_ended(code: int) -> str:
    return f"It was ended by signal {-code}." if code < 0 else f"Its exit status was {code}."


def _failed(job: str, error: ThanoError) -> jobs.Failed:
    return jobs.Failed(job, jobs.Failure(**error.to_fields()))  # type: ignore[arg-type]
