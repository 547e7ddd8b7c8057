"""An EVALUATE from its rows to its answer: all of them go through the workers, and what is counted meanwhile is what the client gets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import TYPE_CHECKING

from thanoproxy.errors import ThanoError
from thanoproxy.session.decorate import Emit, RowStream
from thanoproxy.session.link import Link
from thanoproxy.session.reporting import Audience, Reporter, progress
from thanoproxy.session.services import Services
from thanoproxy.statements.shapes import Summary
from thanoproxy.wire import messages
from thanoproxy.wire.messages import Column, format_code
from thanoproxy.wire.pipeline import UpstreamError
from thanoproxy.wire.values import encode_value, field_at
from thanoproxy.workers import jobs

if TYPE_CHECKING:
    from thanoproxy.session.execute import Stop

__all__ = ["EvaluateRun", "answer_fields", "answer_rows", "evaluating", "summary_stream", "write_answer"]

_PART = 1000
_WRITING = set[asyncio.Task[None]]()
"""The event loop itself keeps no task alive."""


class _Nobody:
    """Reads the rows of a `RowStream` that counts them: nothing is left to be written."""

    full = False

    def write(self, data: bytes) -> None:
        """There is no data."""

    async def drained(self) -> None:
        """There is always room for nothing."""


def summary_stream(summary: Summary, services: Services, upstream: Link) -> RowStream:
    """Has `summary` count every row that is fed."""
    return RowStream(summary, services.pool, upstream, _Nobody(), _taken(summary))


class EvaluateRun:
    """A job that others see while `stream` runs.  Its client hears of it where it takes long, and in the end what was wrong with rows."""

    def __init__(self, summary: Summary, stream: RowStream, audience: Audience) -> None:
        self._summary = summary
        self._stream = stream
        self._started = time.monotonic()
        self._reporter = Reporter(audience, "EVALUATE", summary.model, summary.role)
        self._reporter.now = self._now

    async def failed(self, problem: ThanoError | UpstreamError) -> None:
        """Show others why it ended."""
        await self._reporter.failed(problem)

    def done(self) -> None:
        """All rows have been counted.  Nobody waits until others see that."""
        summary = self._summary
        task = asyncio.create_task(self._reporter.done(summary.version, self._stream.done, summary.accuracy))
        _WRITING.add(task)
        task.add_done_callback(_WRITING.discard)
        self.discard()
        text = summary.warning()
        if text is not None:
            self._reporter.remark(jobs.Remark(job=self._reporter.job, severity="WARNING", message=text))

    def discard(self) -> None:
        """Say no more."""
        self._reporter.close()

    def _now(self) -> jobs.Progress:
        stream = self._stream
        rate = stream.done / (time.monotonic() - self._started)
        return progress(self._reporter.job, "evaluating", stream.done, stream.total or 0, rate=rate)


@asynccontextmanager
async def evaluating(summary: Summary, stream: RowStream, audience: Audience, stop: Stop) -> AsyncIterator[None]:
    """Such a job for as long as the block lasts."""
    run = EvaluateRun(summary, stream, audience)
    try:
        async with stop.told(run.failed):
            yield
    finally:
        run.discard()
    run.done()


def _taken(summary: Summary) -> Emit:
    def take(row: bytes, reply: jobs.Predicted, index: int) -> bytes:
        summary.take(field_at(row, summary.label_column), reply, index)
        return b""

    return take


def answer_fields(columns: Sequence[Column], values: Sequence[object], formats: Sequence[int], codec: str) -> list[bytes | None]:
    """The values of a row of ours, in the formats that Bind asks for."""
    return [encode_value(v, c.type_oid, format_code(formats, i), codec) for i, (v, c) in enumerate(zip(values, columns, strict=True))]


def answer_rows(
    columns: Sequence[Column], rows: Iterable[Sequence[object]], formats: Sequence[int] = (), codec: str = "utf-8"
) -> Iterator[bytes]:
    """The DataRows of an answer."""
    return (messages.data_row(answer_fields(columns, values, formats, codec)) for values in rows)


async def write_answer(client: Link, rows: Iterator[bytes], limit: int = 0, check: Callable[[], None] = lambda: None) -> None:
    """Write `rows` and what an Execute of so many rows (0: all of them) ends with; `check` may raise between parts of them."""
    count = 0
    while part := list(islice(rows, min(_PART, limit - count) if limit else _PART)):
        check()
        client.write(b"".join(part))
        count += len(part)
        await client.drained()
        await asyncio.sleep(0)  # others may go on
    client.write(messages.message(b"s") if limit and count == limit else messages.command_complete(b"SELECT %d" % count))
