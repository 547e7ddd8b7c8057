"""PREDICT requests inside a worker: cut into chunks, decoded on loader threads ahead of the device, put together again.

A request of many rows becomes chunks of one batch each, so that its first rows are on the device while its last are still on
disk.  At most `window` rows of bulk requests are decoded ahead, which bounds memory however much is queued; interactive ones
are always let in.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial

import torch

from thanoproxy.engine.inference import Ranking
from thanoproxy.engine.model import Model
from thanoproxy.engine.pixels import read_cropped
from thanoproxy.errors import InternalError, ThanoError
from thanoproxy.images import Sources
from thanoproxy.images.loader import LoaderThreads
from thanoproxy.workers import jobs
from thanoproxy.workers.schedule import Ready

__all__ = ["BULK", "INTERACTIVE", "TRAINING", "Chunk", "Intake", "Prediction"]

# Priorities on the loader threads; see `thanoproxy.workers.schedule` for the same order on the device.
INTERACTIVE, BULK, TRAINING = 0, 1, 2


class Prediction:
    """One request under way.  `finish` gives the answer once every chunk is done."""

    def __init__(self, key: tuple[object, str], request: jobs.Predict, model: Model) -> None:
        self.key = key
        self.request = request
        self.model = model
        self.canceled = False
        self.failures: dict[int, jobs.Failure] = {}
        self._classes: list[tuple[int, ...] | None] = [None] * len(request.images)
        self._scores: list[tuple[float, ...] | None] = [None] * len(request.images)
        self._vectors: list[bytes | None] = [] if request.vector is None else [None] * len(request.images)
        rows = [row for row, image in enumerate(request.images) if image is not None]
        size = request.batch_size or model.device.predict_batch
        self.chunks = [Chunk(self, rows[at : at + size], size) for at in range(0, len(rows), size)]
        self._left = len(self.chunks)

    def fail_row(self, row: int, error: ThanoError) -> None:
        """That row has no prediction, and why."""
        self.failures[row] = jobs.Failure(**error.to_fields())  # type: ignore[arg-type]

    def finish(self, chunk: Chunk, rankings: Iterable[Ranking]) -> bool:
        """Take in the chunk's results, in the order of its `pixels`; whether that was the last one."""
        top_k, vector = self.request.top_k, self.request.vector
        for row, ranking in zip(chunk.pixels, rankings, strict=True):
            self._classes[row], self._scores[row] = ranking.classes[:top_k], ranking.scores[:top_k]
            if vector is not None:
                self._vectors[row] = ranking.vectors[vector]
        self._left -= 1
        return self._left == 0

    def answer(self) -> jobs.Predicted:
        """The reply to the request."""
        return jobs.Predicted(self.request.job, self._classes, self._scores, self.failures, self.model.device.name, self._vectors)


class Chunk:
    """Rows of one request that go to the device together.  `pixels` fills up while they are decoded."""

    def __init__(self, prediction: Prediction, rows: list[int], batch_size: int) -> None:
        self.prediction = prediction
        self.rows = rows
        self.batch_size = batch_size
        self.pixels: dict[int, torch.Tensor] = {}
        self.futures: list[Future[torch.Tensor]] = []
        self.left = len(rows)
        self.order = 0

    @property
    def bulk(self) -> bool:
        return self.prediction.request.bulk

    def ready(self) -> Ready:
        """As the schedule sees it."""
        return Ready(self.prediction.model.backbone, len(self.rows), self.bulk, self.batch_size, self.order)


class Intake:
    """Chunks that wait to be decoded or are being decoded.

    Everything here happens under `lock`, which the caller holds for `add`, `done` and `drop`; `on_ready` is called under it too.
    """

    def __init__(
        self, sources: Sources, threads: LoaderThreads, lock: threading.Condition, window: int, on_ready: Callable[[Chunk], None]
    ) -> None:
        self._sources = sources
        self._threads = threads
        self._lock = lock
        self._window = window
        self._on_ready = on_ready
        self._waiting: deque[Chunk] = deque()
        self._inside = 0
        self._count = 0

    def add(self, prediction: Prediction) -> None:
        """Begin with a request's chunks, as far as the window lets them in."""
        for chunk in prediction.chunks:
            self._count += 1
            chunk.order = self._count
            if chunk.bulk:
                self._waiting.append(chunk)
            else:
                self._decode(chunk)
        self._let_in()

    def done(self, chunk: Chunk) -> None:
        """The device has finished with a chunk that was ready."""
        self._leave(chunk)

    def drop(self, prediction: Prediction) -> None:
        """Forget a request; what has not been begun never will be."""
        self._waiting = deque(chunk for chunk in self._waiting if chunk.prediction is not prediction)
        for chunk in prediction.chunks:
            for future in chunk.futures:
                future.cancel()

    def _let_in(self) -> None:
        while self._waiting and (self._inside == 0 or self._inside + len(self._waiting[0].rows) <= self._window):
            chunk = self._waiting.popleft()
            self._inside += len(chunk.rows)
            self._decode(chunk)

    def _leave(self, chunk: Chunk) -> None:
        if chunk.bulk:
            self._inside -= len(chunk.rows)
            self._let_in()

    def _decode(self, chunk: Chunk) -> None:
        prediction = chunk.prediction
        priority = BULK if chunk.bulk else INTERACTIVE
        for row in chunk.rows:
            image = prediction.request.images[row]
            assert image is not None, "NULL images are in no chunk"
            work = partial(read_cropped, self._sources, image, row, prediction.model.preprocessing)
            chunk.futures.append(self._threads.submit(work, priority))
        for row, future in zip(chunk.rows, chunk.futures, strict=True):
            future.add_done_callback(partial(self._decoded, chunk, row))

    def _decoded(self, chunk: Chunk, row: int, future: Future[torch.Tensor]) -> None:
        with self._lock:
            chunk.left -= 1
            if not future.cancelled():
                error = future.exception()
                if isinstance(error, ThanoError):
                    chunk.prediction.fail_row(row, error)
                elif error is not None:
                    chunk.prediction.fail_row(row, InternalError("an image could not be read", detail=repr(error), row=row))
            if chunk.left:
                return
            if chunk.prediction.canceled:
                self._leave(chunk)
                return
            # In the order of the rows, whichever thread was first.
            chunk.pixels = {
                row: one.result() for row, one in zip(chunk.rows, chunk.futures, strict=True) if row not in chunk.prediction.failures
            }
            chunk.futures = []
            self._on_ready(chunk)
