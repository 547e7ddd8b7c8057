"""A worker apart, for requests that were with two workers when those died: whoever is guilty kills nobody else's work any more.

It is started when it is needed and ended when nobody waits for it.  One request at a time is tried there, part by part
(`thanoproxy.workers.bisect`): an innocent one comes through, and of a guilty one all rows but those that kill workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping

from msgspec import structs

from thanoproxy.errors import Canceled, InvalidImage, WorkerFailure
from thanoproxy.images.source import shown
from thanoproxy.workers import bisect, jobs
from thanoproxy.workers.child import Child
from thanoproxy.workers.replies import one_reply
from thanoproxy.workers.scratch import Scratch
from thanoproxy.workers.settings import WorkerSettings

__all__ = ["Quarantine"]

log = logging.getLogger(__name__)


class Quarantine:
    """Of one pool."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._turn = asyncio.Lock()
        self._inside = 0
        self._cell: _Cell | None = None
        self._closing = False

    async def predict(self, request: jobs.Predict) -> jobs.Predicted:
        """The answer, with a failure for each row that kills workers.  Raises `WorkerFailure` where that cannot be told of single rows."""
        self._inside += 1
        try:
            async with self._turn:
                return await self._search(request)
        finally:
            self._inside -= 1
            if not self._inside:
                await self._empty()

    async def close(self) -> None:
        """End the worker; what it has fails with `Canceled`."""
        self._closing = True
        await self._empty()

    async def _search(self, request: jobs.Predict) -> jobs.Predicted:
        search = bisect.begin(len(request.images))
        answers: dict[range, jobs.Predicted] = {}
        why: str | None = None
        while search.parts:
            if search.deaths >= bisect.DEATHS:
                raise WorkerFailure(
                    f"{search.deaths} worker processes died of this batch of {len(request.images)} images", detail=why, hint=_HINT
                )
            rows = search.parts[0].rows
            cell = await self._cell_with(request)
            part = structs.replace(request, images=request.images[rows.start : rows.stop], most=None)
            try:
                answers[rows] = await one_reply(cell.child.line.send, part, jobs.Predicted)
            except WorkerFailure as failure:
                if not cell.child.line.is_over:
                    raise
                why, search = failure.detail, bisect.died(search)
                log.warning("job %s: a worker died of images %d to %d", request.job, rows.start, rows.stop - 1)
            else:
                search = bisect.passed(search)
        return _together(request, answers, {row: _blame(request.images[row], row, why) for row in search.guilty})

    async def _cell_with(self, request: jobs.Predict) -> _Cell:
        """The worker, with the model resident: what dies of loading that does not die of an image."""
        if self._cell is not None and self._cell.child.line.is_over:
            await self._empty()
        if self._cell is None:
            self._cell = await _Cell.make(self._settings)
        if self._closing:
            raise Canceled("the workers were stopped")
        await one_reply(self._cell.child.line.send, jobs.Load(f"{request.job}.load", request.artifact), jobs.Loaded)
        return self._cell

    async def _empty(self) -> None:
        cell, self._cell = self._cell, None
        if cell is not None:
            await cell.remove()


class _Cell:
    """A worker process with a folder of its own, which it removes if this process is killed."""

    def __init__(self, child: Child, folder: Scratch) -> None:
        self.child = child
        self._folder = folder
        self._running = asyncio.create_task(child.run(), name="quarantine")

    @classmethod
    async def make(cls, settings: WorkerSettings) -> _Cell:
        folder = Scratch()
        try:
            return cls(await Child.start(settings, settings.devices[0], os.path.join(folder.path, "worker")), folder)
        except BaseException:
            folder.remove()
            raise

    async def remove(self) -> None:
        try:
            await self.child.stop()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running
        finally:
            self._folder.remove()


_HINT = "Leave the image out of the query.  PREDICT and CONVERT can go on without it: OPTIONS (on_error='null')."


def _blame(image: jobs.Image, row: int, why: str | None) -> jobs.Failure:
    assert image is not None, "what is NULL is not read"
    error = InvalidImage(f"image {shown(image)}: worker processes die of it", detail=why, hint=_HINT, row=row)
    return jobs.Failure(**error.to_fields())  # type: ignore[arg-type]


def _together(request: jobs.Predict, answers: Mapping[range, jobs.Predicted], failures: dict[int, jobs.Failure]) -> jobs.Predicted:
    """One answer of those to the parts; rows that are in none have only their failure."""
    count = len(request.images)
    vectors: list[bytes | None] = [] if request.vector is None else [None] * count
    whole = jobs.Predicted(request.job, [None] * count, [None] * count, failures, vectors=vectors, computed=count)
    for rows, answer in answers.items():
        at = slice(rows.start, rows.stop)
        whole.classes[at], whole.scores[at] = answer.classes, answer.scores
        if request.vector is not None:
            whole.vectors[at] = answer.vectors
        for row, failure in answer.failures.items():
            failures[rows[row]] = structs.replace(failure, row=rows[row])
        whole = structs.replace(whole, device=answer.device)
    return whole
