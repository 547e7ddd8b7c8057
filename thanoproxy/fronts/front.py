"""One front process as its parent sees it."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from thanoproxy.errors import ConfigurationError
from thanoproxy.fronts.orders import Answer, Drain, Order, Start
from thanoproxy.workers import jobs
from thanoproxy.workers.process import NotStarted
from thanoproxy.workers.replies import raise_failed
from thanoproxy.workers.spawning import end, how_it_ended, spawn

__all__ = ["Front"]

START_SECONDS = 60.0
DRAIN_SECONDS = 30.0
"""More than a front allows itself, with its sessions, its job log and its verifiers."""

_decode_answer = msgspec.json.Decoder(Answer).decode


class Front:
    """A running front.  Made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, start: Start) -> Front:
        """Return once it accepts clients.  Raises what the process says is wrong with the settings, or `ConfigurationError`."""
        process = await spawn("thanoproxy.fronts.process", pass_fds=(start.listener,))
        front = cls(process)
        try:
            assert process.stdout is not None, "a pipe"
            front._write(start)
            async with asyncio.timeout(START_SECONDS):
                _check(await process.stdout.readline())
        except BaseException as error:
            await end(process, 0)
            if isinstance(error, (OSError, TimeoutError)):
                raise ConfigurationError(f"a front process did not start: {error or type(error).__name__}") from error
            raise
        return front

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, order: Order) -> None:
        """Does not wait; a front that is gone hears nothing."""
        with contextlib.suppress(OSError):
            self._write(order)

    async def run(self) -> str:
        return how_it_ended(await self._process.wait())

    async def stop(self) -> None:
        """Drain it."""
        self.tell(Drain())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), DRAIN_SECONDS)
        await end(self._process, 0)

    def _write(self, message: Start | Order) -> None:
        assert self._process.stdin is not None, "a pipe"
        if not self._process.stdin.is_closing():
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")


def _check(line: bytes) -> None:
    if not line:
        raise ConfigurationError("a front process died while it started", hint="The proxy's log has what it printed.")
    answer = _decode_answer(line)
    if isinstance(answer, NotStarted):
        raise_failed(jobs.Failed("start", answer.failure))
