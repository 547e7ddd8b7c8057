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
from typing import NamedTuple

import torch
from msgspec.structs import replace

from thanoproxy.engine.inference import Vectors
from thanoproxy.engine.model import Model
from thanoproxy.engine.pixels import read_cropped
from thanoproxy.engine.ranking import Ranked, rank
from thanoproxy.errors import InternalError, ThanoError
from thanoproxy.images import Sources
from thanoproxy.images.loader import LoaderThreads, Steps
from thanoproxy.workers import jobs
from thanoproxy.workers.schedule import Ready

__all__ = ["BULK", "INTERACTIVE", "TRAINING", "Chunk", "Intake", "Prediction"]

# Priorities on the loader threads; see `thanoproxy.workers.schedule` for the same order on the device.
INTERACTIVE, BULK, TRAINING = 0, 1, 2

_NULL = -1
"""The number of the image that is none: behind the last."""


class Read(NamedTuple):
    """An image's pixels, uint8 (3, crop, crop); and where its prediction is to be kept, the mark of its stamp afterwards."""

    pixels: torch.Tensor
    mark: bytes | None


class Prediction:
    """One request under way.  `finish` gives the answer once every chunk is done; without chunks it is there at once.

    Rows with the same image are one, unless the cache is not wanted: what is counted here are images, in the order of their first rows.
    """

    def __init__(self, key: tuple[object, str], request: jobs.Predict, model: Model) -> None:
        self.key = key
        self.request = request
        self.model = model
        self.canceled = False
        self.images: list[str | bytes] = []
        self.first_rows: list[int] = []
        self.chunks: list[Chunk] = []
        self.computed = 0
        self._image_of = self._distinct()
        self.keeping: dict[int, tuple[bytes, bytes]] = {}
        self._vectors: list[Vectors | None] = [None] * len(self.images)
        self._failures: dict[int, jobs.Failure] = {}
        self._left = 0

    def _distinct(self) -> list[int]:
        places: dict[str | bytes, int] = {}
        image_of: list[int] = []
        for row, image in enumerate(self.request.images):
            place = _NULL if image is None else places.get(image) if self.request.cache else None
            if place is None:
                assert image is not None, "NULL has its place"
                place = len(self.images)
                self.images.append(image)
                self.first_rows.append(row)
                if self.request.cache:
                    places[image] = place
            image_of.append(place)
        return image_of

    def know(self, image: int, vectors: Vectors) -> None:
        """That one needs not be computed."""
        self._vectors[image] = vectors

    def begin(self) -> None:
        """Cut what is to be computed into chunks; what is too much is left out."""
        unknown = [image for image, vectors in enumerate(self._vectors) if vectors is None]
        if self.request.most is not None and len(unknown) > self.request.most:
            self._image_of = self._image_of[: self.first_rows[unknown[self.request.most]]]
            unknown = unknown[: self.request.most]
        size = self.request.batch_size or self.model.device.predict_batch
        self.chunks = [Chunk(self, unknown[at : at + size], size) for at in range(0, len(unknown), size)]
        self.computed, self._left = len(unknown), len(self.chunks)

    def fail(self, image: int, error: ThanoError) -> None:
        """That one has no prediction, and why."""
        self._failures[image] = jobs.Failure(**error.to_fields())  # type: ignore[arg-type]

    def failed(self, image: int) -> bool:
        return image in self._failures

    def finish(self, chunk: Chunk, found: Iterable[Vectors]) -> bool:
        """Take in the chunk's results, in the order of its `pixels`; whether that was the last one."""
        for image, vectors in zip(chunk.pixels, found, strict=True):
            self._vectors[image] = vectors
        self._left -= 1
        return self._left == 0

    def answer(self) -> jobs.Predicted:
        """The reply to the request."""
        vector, image_of, rankings = self.request.vector, self._image_of, self._rankings()
        vectors = [] if vector is None else [None if one is None else one[vector] for one in (*self._vectors, None)]
        return jobs.Predicted(
            self.request.job,
            [ranking and ranking.classes for ranking in map(rankings.__getitem__, image_of)],
            [ranking and ranking.scores for ranking in map(rankings.__getitem__, image_of)],
            {row: replace(self._failures[image], row=row) for row, image in enumerate(image_of) if image in self._failures},
            self.model.device.name,
            [vectors[image] for image in image_of] if vectors else [],
            self.computed,
        )

    def _rankings(self) -> list[Ranked | None]:
        """Of each image, and then of `_NULL`."""
        found: list[Ranked | None] = [None] * (len(self._vectors) + 1)
        there = [(image, one) for image, one in enumerate(self._vectors) if one is not None]
        if self.request.top_k:
            ranked = rank([one["probabilities"] for _, one in there], self.request.top_k)
        else:
            ranked = [Ranked((), ())] * len(there)
        for (image, _), ranking in zip(there, ranked, strict=True):
            found[image] = ranking
        return found


class Chunk:
    """Images of one request that go to the device together.  `pixels` and `marks` fill up while they are decoded."""

    def __init__(self, prediction: Prediction, images: list[int], batch_size: int) -> None:
        self.prediction = prediction
        self.images = images
        self.batch_size = batch_size
        self.pixels: dict[int, torch.Tensor] = {}
        self.marks: dict[int, bytes | None] = {}
        self.futures: list[Future[Read]] = []
        self.left = len(images)
        self.order = 0

    @property
    def bulk(self) -> bool:
        return self.prediction.request.bulk

    def ready(self) -> Ready:
        """As the schedule sees it."""
        return Ready(self.prediction.model.backbone, len(self.images), self.bulk, self.batch_size, self.order)


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
        while self._waiting and (self._inside == 0 or self._inside + len(self._waiting[0].images) <= self._window):
            chunk = self._waiting.popleft()
            self._inside += len(chunk.images)
            self._decode(chunk)

    def _leave(self, chunk: Chunk) -> None:
        if chunk.bulk:
            self._inside -= len(chunk.images)
            self._let_in()

    def _decode(self, chunk: Chunk) -> None:
        prediction = chunk.prediction
        priority = BULK if chunk.bulk else INTERACTIVE
        for image in chunk.images:
            chunk.futures.append(self._threads.submit(partial(self._read, prediction, image), priority))
        for image, future in zip(chunk.images, chunk.futures, strict=True):
            future.add_done_callback(partial(self._decoded, chunk, image))

    def _read(self, prediction: Prediction, image: int) -> Steps[Read]:
        named = prediction.images[image]
        pixels = yield from read_cropped(self._sources, named, prediction.first_rows[image], prediction.model.preprocessing)
        after = self._sources.stamps([named])[0] if image in prediction.keeping else None
        return Read(pixels, None if after is None else after.mark)

    def _decoded(self, chunk: Chunk, image: int, future: Future[Read]) -> None:
        prediction = chunk.prediction
        with self._lock:
            chunk.left -= 1
            if not future.cancelled():
                error = future.exception()
                if isinstance(error, ThanoError):
                    prediction.fail(image, error)
                elif error is not None:
                    row = prediction.first_rows[image]
                    prediction.fail(image, InternalError("an image could not be read", detail=repr(error), row=row))
            if chunk.left:
                return
            if prediction.canceled:
                self._leave(chunk)
                return
            # In the order of the images, whichever thread was first.
            for image, one in zip(chunk.images, chunk.futures, strict=True):
                if not prediction.failed(image):
                    chunk.pixels[image], chunk.marks[image] = one.result()
            chunk.futures = []
            self._on_ready(chunk)
