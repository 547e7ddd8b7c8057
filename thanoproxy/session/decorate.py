"""Rows on their way through the workers: upstream -> batches in flight -> client, in order.

Memory is bounded by what is in flight: when enough rows wait, reading from upstream stops (and TCP stops the server); when the client
does not read, nothing new is sent to the workers.  In flight are four batches of the size that the worker's device likes: one computes, one
is on its way there, and images for two are read.  The first batches are small, so that the first row does not wait for many others,
and they go before bulk work of other sessions.

Batches grow while most of their predictions are known, since they cost the workers next to nothing then; but of none are more than
`_LARGEST_BATCH` images computed at once, however many turn out not to be known: the workers leave the rest, and are asked again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol
from uuid import uuid4

from thanoproxy.session.exchange import Exchange
from thanoproxy.session.link import Link
from thanoproxy.statements.shapes import Applied, Decoration
from thanoproxy.wire import messages
from thanoproxy.wire.values import append_fields, field_at
from thanoproxy.workers import jobs
from thanoproxy.workers.pool import Pool

__all__ = ["Emit", "RowStream", "appended", "completion", "warn"]

_FIRST_BATCH, _LARGEST_BATCH = 8, 64
_BATCH_BYTES = 8 << 20
_INTERACTIVE_ROWS = 64
_IN_FLIGHT = 4
"""Requests, or batches of the device's where those are larger: 256 rows for a CPU, 1024 for a GPU, of `_BATCH_BYTES` a request at most."""

_LARGEST_KNOWN = 512
_WAITING_ROWS, _WAITING_BYTES = 2 * _LARGEST_KNOWN, 16 << 20


Emit = Callable[[bytes, jobs.Predicted, int], bytes]
"""From a row's body, the reply to its batch and its place there, the bytes to be written.  Raises the row's own failure."""


def appended(decoration: Decoration) -> Emit:
    """The row with the added fields, as the client gets it."""

    def emit(row: bytes, reply: jobs.Predicted, index: int) -> bytes:
        fields = decoration.fields(reply, index)
        return b"" if fields is None else append_fields(row, fields)

    return emit


def completion(decoration: Decoration, tag: bytes) -> bytes:
    """The server's completion, counting the rows that the client got."""
    word, _, count = tag.partition(b" ")
    if decoration.left_out and word == b"SELECT":
        tag = b"SELECT %d" % (int(count) - decoration.left_out)
    return messages.command_complete(tag)


def warn(decoration: Decoration, exchange: Exchange) -> None:
    """Behind the last row: tell what was wrong with some of them."""
    text = decoration.warning()
    if text is not None:
        exchange.notice(text, "WARNING", sqlstate="01000")


class Reader(Protocol):
    """Who reads the rows: the client, as a rule."""

    full: bool

    def write(self, data: bytes) -> None: ...

    async def drained(self) -> None: ...


class RowStream:
    """Applies a model to the DataRows fed to `feed` until `end`; `run` writes what `emit` makes of them to the client."""

    def __init__(self, applied: Applied, pool: Pool, upstream: Link, client: Reader, emit: Emit) -> None:
        self._applied = applied
        self._pool = pool
        self._upstream = upstream
        self._client = client
        self._emit = emit
        self._job = uuid4().hex
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._flight: deque[tuple[list[bytes], asyncio.Task[list[jobs.Predicted]]]] = deque()
        self._ended = False
        self._dropping = False
        self._news = asyncio.Event()
        self._batch = _FIRST_BATCH
        self._in_flight = _IN_FLIGHT
        self.rows = self.done = 0
        self.batches = 0
        self.devices: set[str] = set()

    def feed(self, body: bytes) -> None:
        """One DataRow's body from upstream."""
        if self._dropping:
            return
        self._waiting.append(body)
        self._waiting_bytes += len(body)
        if len(self._waiting) >= _WAITING_ROWS or self._waiting_bytes >= _WAITING_BYTES:
            self._upstream.hold("rows")
        self._news.set()

    def end(self, done: asyncio.Future[None] | None = None) -> None:
        """The last row of this execution was fed; if the server has failed instead, those that wait are of no use any more."""
        self._ended = True
        if done is not None and (done.cancelled() or done.exception() is not None):
            self.drop()
        self._news.set()

    def drop(self) -> None:
        """Rows that still come are of no use any more."""
        self._dropping = True
        self._waiting.clear()
        self._upstream.release("rows")
        self._news.set()

    @property
    def total(self) -> int | None:
        """How many rows there are, once that is known."""
        return self.rows + len(self._waiting) if self._ended else None

    async def run(self) -> None:
        """Return when every row fed before `end` has been written.  Raises the first row's or batch's error."""
        try:
            loaded = await self._pool.load(jobs.Load(self._job, self._applied.artifact))
            self._applied.ready(loaded.classes)
            self._in_flight = max(_IN_FLIGHT, _IN_FLIGHT * loaded.batch // _LARGEST_BATCH)
            while True:
                if self._dropping:
                    return
                self._fill()
                if not self._flight:
                    if self._ended and not self._waiting:
                        return
                    await self._news.wait()
                elif self._flight[0][1].done():
                    await self._deliver()
                else:
                    await self._wait()
                self._news.clear()
        finally:
            for _, task in self._flight:
                task.cancel()
            await asyncio.gather(*(task for _, task in self._flight), return_exceptions=True)

    def _fill(self) -> None:
        while self._waiting and len(self._flight) < self._in_flight and not self._client.full:
            rows = [self._waiting.popleft()]
            taken = len(rows[0])
            while self._waiting and len(rows) < self._batch and taken + len(self._waiting[0]) <= _BATCH_BYTES:
                rows.append(self._waiting.popleft())
                taken += len(rows[-1])
            self._waiting_bytes -= taken
            self._batch = max(self._batch, min(self._batch * 2, _LARGEST_BATCH))
            self._flight.append((rows, asyncio.create_task(self._predict(rows))))
            self.rows += len(rows)
        if len(self._waiting) < _WAITING_ROWS // 2 and self._waiting_bytes < _WAITING_BYTES // 2:
            self._upstream.release("rows")

    async def _predict(self, rows: list[bytes]) -> list[jobs.Predicted]:
        """Answers, one behind the other, that have an entry for each row."""
        index, image = self._applied.image_column, self._applied.image
        images = [image(field_at(row, index)) for row in rows]
        replies = []
        while images:
            # Several batches of one statement are in flight at once, and replies are told apart by their job.
            self.batches += 1
            job, bulk = f"{self._job}.{self.batches}", self.rows > _INTERACTIVE_ROWS
            reply = await self._pool.predict(self._applied.request(job, images, bulk=bulk, most=_LARGEST_BATCH))
            assert reply.classes, "one image is always computed"
            images = images[len(reply.classes) :]
            replies.append(reply)
            self.devices.add(reply.device)
        self._batch = _next_batch(self._batch, len(rows), sum(reply.computed for reply in replies))
        return replies

    async def _wait(self) -> None:
        """Until the oldest batch is done, or rows come that there is room for."""
        head = self._flight[0][1]
        head.add_done_callback(self._wake)
        try:
            await self._news.wait()
        finally:
            head.remove_done_callback(self._wake)

    def _wake(self, _: object) -> None:
        self._news.set()

    async def _deliver(self) -> None:
        rows, task = self._flight.popleft()
        replies = task.result()
        if self._dropping:
            return
        left = iter(rows)
        for reply in replies:
            entries = range(len(reply.classes))
            while entries and not self._dropping:
                part, entries = entries[:_LARGEST_BATCH], entries[_LARGEST_BATCH:]
                self._client.write(b"".join([self._emit(row, reply, i) for i, row in zip(part, left, strict=False)]))
                self.done += len(part)
                await self._client.drained()
                await asyncio.sleep(0)  # others may go on: an embedding in text takes a while


def _next_batch(size: int, rows: int, computed: int) -> int:
    """How many rows the next batch should have, after one of `rows` of which so many images were computed."""
    if 2 * computed > _LARGEST_BATCH:
        return min(size, _LARGEST_BATCH)
    return min(2 * size, _LARGEST_KNOWN) if rows >= size else size
