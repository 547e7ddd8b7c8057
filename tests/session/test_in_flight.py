"""How many rows of a statement are at a worker at once: a few batches of the size that its device likes, and no more."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import Any

import pytest

from thanoproxy.session.decorate import RowStream
from thanoproxy.statements.shapes import Applied
from thanoproxy.workers import jobs


class Classifies(Applied):
    """Asks for the class of the first column's image."""

    image_column, artifact, title = 0, "artifact", "a test"

    def ready(self, classes: Sequence[str]) -> None:
        assert classes == ["a", "b"]

    def image(self, value: bytes | None) -> jobs.Image:
        return None if value is None else value.decode()

    def warning(self) -> str | None:
        return None

    def request(self, job: str, images: list[jobs.Image], **rest: Any) -> jobs.Predict:
        return jobs.Predict(job, self.artifact, images, **rest)


class Worker:
    """One that has everything waiting until it is told to answer."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._go_on = asyncio.Event()
        self.sizes: list[int] = []
        self.inside = self.most = 0

    def answer(self) -> None:
        self._go_on.set()

    async def load(self, request: jobs.Load) -> jobs.Loaded:
        return jobs.Loaded(request.job, ["a", "b"], self._batch)

    async def predict(self, request: jobs.Predict) -> jobs.Predicted:
        self.sizes.append(len(request.images))
        self.inside += len(request.images)
        self.most = max(self.most, self.inside)
        await self._go_on.wait()
        self.inside -= len(request.images)
        images = len(request.images)
        return jobs.Predicted(request.job, [(0,)] * images, [(1.0,)] * images, computed=images)


class Link:
    """Upstream and client in one: it takes all that is written."""

    full = False

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def hold(self, why: str) -> None: ...

    def release(self, why: str) -> None: ...

    def write(self, data: bytes) -> None:
        self.written.append(data)

    async def drained(self) -> None: ...


@pytest.mark.parametrize(
    ("batch", "requests", "rows"),
    [(16, 4, 8 + 16 + 32 + 64), (64, 4, 8 + 16 + 32 + 64), (256, 16, 8 + 16 + 32 + 13 * 64)],
    ids=["cpu", "64", "gpu"],
)
async def test_four_of_the_devices_batches_are_under_way(batch: int, requests: int, rows: int) -> None:
    worker, link = Worker(batch), Link()
    stream = RowStream(Classifies(), worker, link, link, lambda row, reply, index: row)  # type: ignore[arg-type]
    bodies = [struct.pack("!hi", 1, 5) + b"%05d" % number for number in range(4000)]
    for body in bodies:
        stream.feed(body)
    stream.end()
    running = asyncio.create_task(stream.run())
    for _ in range(100):
        await asyncio.sleep(0)
    assert (len(worker.sizes), worker.inside) == (requests, rows)
    worker.answer()
    await running
    assert b"".join(link.written) == b"".join(bodies), "in order"
    assert worker.most <= max(256, 4 * batch)
