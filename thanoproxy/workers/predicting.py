"""PREDICT requests inside a worker: cut into chunks of one batch each, and put together again.

Its first rows are so on the device while its last are still on disk; see `thanoproxy.workers.intake`.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from typing import NamedTuple

import torch
from msgspec.structs import replace

from thanoproxy.engine.inference import Vectors
from thanoproxy.engine.model import Model
from thanoproxy.engine.ranking import Ranked, rank
from thanoproxy.errors import ThanoError
from thanoproxy.images.jpeg import PlainJpeg
from thanoproxy.workers import jobs
from thanoproxy.workers.device_decoding import Decoded
from thanoproxy.workers.schedule import Ready

__all__ = ["BULK", "INTERACTIVE", "TRAINING", "Chunk", "Prediction", "Read"]

# Priorities on the loader threads; see `thanoproxy.workers.schedule` for the same order on the device.
INTERACTIVE, BULK, TRAINING = 0, 1, 2

_NULL = -1
"""The number of the image that is none: behind the last."""


class Read(NamedTuple):
    """An image's pixels, uint8 (3, crop, crop), or what the device is to make them of; and where its prediction is to be kept, the mark of
    its stamp afterwards."""

    pixels: torch.Tensor | PlainJpeg
    mark: bytes | None


class Prediction:
    """One request under way.  `finish` gives the answer once every chunk is done; without chunks it is there at once.

    Rows with the same image are one, unless the cache is not wanted: what is counted here are images, in the order of their first rows.
    """

    def __init__(self, key: tuple[object, str], request: jobs.Predict, model: Model) -> None:
        self.key = key
        self.statement = (key[0], request.statement)
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
    """Images of one request that go to the device together.  `pixels` and `marks` fill up while they are decoded.

    `jpegs` are those that the device is yet to decode.
    """

    def __init__(self, prediction: Prediction, images: list[int], batch_size: int) -> None:
        self.prediction = prediction
        self.images = images
        self.batch_size = batch_size
        self.pixels: dict[int, torch.Tensor] = {}
        self.marks: dict[int, bytes | None] = {}
        self.jpegs: dict[int, PlainJpeg] = {}
        self.futures: dict[int, Future[Read]] = {}
        self.decoded: Future[Decoded] | None = None
        self.left = len(images)
        self.order = 0

    @property
    def bulk(self) -> bool:
        return self.prediction.request.bulk

    @property
    def priority(self) -> int:
        """On threads that decode."""
        return BULK if self.bulk else INTERACTIVE

    def take(self, image: int, read: Read) -> None:
        """What was read of an image."""
        self.marks[image] = read.mark
        if isinstance(read.pixels, PlainJpeg):
            self.jpegs[image] = read.pixels
        else:
            self.pixels[image] = read.pixels

    def ready(self) -> Ready:
        """As the schedule sees it."""
        return Ready(self.prediction.model.backbone, len(self.images), self.bulk, self.batch_size, self.order)
