"""A connection to one worker: jobs go out, replies come back, and when it ends every job on it has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from thanoproxy.errors import ThanoError
from thanoproxy.workers import jobs
from thanoproxy.workers.frames import pack, read_frame

__all__ = ["Line"]

log = logging.getLogger(__name__)


class Line:
    """Made by `connect`; somebody must await `run`, and then say by `over` why it ended."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.rows_under_way = 0
        self.builds = 0
        self._reader = reader
        self._writer = writer
        self._receivers: dict[str, Callable[[jobs.Reply], None]] = {}
        self._rows: dict[str, int] = {}
        self._why_over: ThanoError | None = None

    @classmethod
    async def connect(cls, socket: str) -> Line:
        """Raises `OSError` where no worker listens."""
        return cls(*await asyncio.open_unix_connection(socket))

    @property
    def is_over(self) -> bool:
        return self._why_over is not None

    def send(self, request: jobs.Request, receive: Callable[[jobs.Reply], None]) -> None:
        """Hand over a request; its replies go to `receive`.  If the line ends, that is the reply."""
        if isinstance(request, jobs.Cancel):
            if self._why_over is None and request.job in self._receivers:
                self._writer.write(pack(request))
            return
        frame = pack(request)
        self._receivers[request.job] = receive
        if isinstance(request, jobs.Predict):
            rows = len(request.images) if request.most is None else min(len(request.images), request.most)
            self._rows[request.job] = rows
            self.rows_under_way += rows
        if self._why_over is not None:
            self._deliver(_failed(request.job, self._why_over))
            return
        self._writer.write(frame)

    async def run(self) -> None:
        """Pass on replies until the worker closes, or says what is no reply."""
        try:
            while (frame := await read_frame(self._reader)) is not None:
                self._deliver(jobs.decode_reply(frame))
        except msgspec.DecodeError:
            log.exception("a worker sent what is no reply")
        finally:
            self._writer.close()

    def over(self, why: ThanoError) -> None:
        """Fail every job there is, and those that come, with `why`; the first reason stays."""
        if self._why_over is None:
            self._why_over = why
        for job in list(self._receivers):
            self._deliver(_failed(job, self._why_over))

    def _deliver(self, reply: jobs.Reply) -> None:
        if isinstance(reply, jobs.Progress | jobs.Remark):
            receive = self._receivers.get(reply.job)
        else:
            receive = self._receivers.pop(reply.job, None)
            self.rows_under_way -= self._rows.pop(reply.job, 0)
        if receive is not None:
            receive(reply)


def _failed(job: str, error: ThanoError) -> jobs.Failed:
    return jobs.Failed(job, jobs.Failure(**error.to_fields()))  # type: ignore[arg-type]
