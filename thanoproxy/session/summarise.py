"""An EVALUATE from its rows to its answer: all of them go through the workers, and what is counted meanwhile is what the client gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from thanoproxy.session.decorate import Emit, RowStream
from thanoproxy.session.link import Link
from thanoproxy.session.services import Services
from thanoproxy.statements.shapes import Summary
from thanoproxy.wire import messages
from thanoproxy.wire.messages import Column, format_code
from thanoproxy.wire.values import encode_value, field_at
from thanoproxy.workers import jobs

__all__ = ["answer_fields", "answer_rows", "summary_stream", "write_answer"]

_PART = 1000


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
