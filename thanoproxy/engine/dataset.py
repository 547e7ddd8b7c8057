"""The rows of a BUILD as training sees them: numbered labels, a fair split, and pixels that are decoded once.

A dataset of millions of rows costs about 50 bytes a row here (record offset, label, digest, its places in the split and in an epoch),
some more while it is split, and a cache of decoded pixels within a budget; images beyond the budget are read again in every epoch.
"""

from __future__ import annotations

import hashlib
import math
import threading
from array import array
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch

from thanoproxy.engine.pixels import digest, random_crop, read_encoded, read_scaled
from thanoproxy.errors import DataError, NoData
from thanoproxy.images import Sources
from thanoproxy.images.loader import LoaderThreads, Steps, ordered
from thanoproxy.models.preprocessing import Preprocessing, center_crop
from thanoproxy.workers.spool import Spool

__all__ = ["Augment", "Batch", "Dataset", "Split", "batches", "split_rows"]

_UNDECIDED, _TRAINING, _VALIDATION = -1, 0, 1


class Augment(NamedTuple):
    """Random crops for this epoch; None in its place means the centre crop."""

    seed: int
    epoch: int


class Batch(NamedTuple):
    """uint8 (n, 3, crop, crop) on the CPU, and int64 (n,) class numbers."""

    rows: list[int]
    pixels: torch.Tensor
    labels: torch.Tensor


class Split(NamedTuple):
    """Row numbers, ascending, eight bytes each."""

    training: array[int]
    validation: array[int]


class Dataset:
    """A finished spool with its images.  Its classes are its labels and those that are `known` besides.

    Raises `NoData` for no rows and `DataError` for fewer than two different labels.
    """

    def __init__(
        self,
        spool: Spool,
        sources: Sources,
        threads: LoaderThreads,
        preprocessing: Preprocessing,
        *,
        pixel_budget: int,
        known: Sequence[str] = (),
    ) -> None:
        self.preprocessing = preprocessing
        self.classes, self.labels = _number_labels(spool, known)
        self._spool = spool
        self._sources = sources
        self._threads = threads
        self._cache = _PixelCache(pixel_budget)
        self._digests = np.zeros((len(self.labels), 16), np.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    def scan(self, size: int) -> Generator[Batch, None, None]:
        """Every row once, in order, centre-cropped, in batches of `size`.  Afterwards `split` can be called.

        This pass reads every file, so a missing or damaged image is found here, before any training.
        """
        return self._batches([range(at, min(at + size, len(self))) for at in range(0, len(self), size)], None)

    def batches(self, plan: Sequence[Sequence[int]], augment: Augment | None) -> Generator[Batch, None, None]:
        """The rows of each batch of `plan`, loaded ahead."""
        return self._batches(plan, augment)

    def split(self, fraction: float, seed: int) -> Split:
        """See `split_rows`."""
        return split_rows(self.labels, self._digests, fraction, seed)

    def class_weights(self, rows: Sequence[int]) -> torch.Tensor:
        """float32 (classes,): inverse to how often each class occurs in `rows`, 1 on average over the rows."""
        counts = np.bincount(np.asarray(self.labels)[rows], minlength=len(self.classes)).astype(np.float64)
        weights = len(rows) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        return torch.from_numpy(weights.astype(np.float32))

    def _batches(self, plan: Sequence[Sequence[int]], augment: Augment | None) -> Generator[Batch, None, None]:
        flat = (row for rows in plan for row in rows)
        ahead = max(4 * self._threads.count, 2 * max(map(len, plan), default=1))
        loaded = ordered(self._threads, flat, lambda row: self._load(row, augment), ahead=ahead, priority=1)
        with closing(loaded):
            for rows in plan:
                pixels = torch.stack([next(loaded).result() for _ in rows])
                labels = torch.from_numpy(np.asarray(self.labels)[rows].astype(np.int64))
                yield Batch(list(rows), pixels, labels)

    def _load(self, row: int, augment: Augment | None) -> Steps[torch.Tensor]:
        scaled = self._cache.get(row)
        if scaled is None:
            image = self._spool.row(row).image
            encoded = yield from read_encoded(self._sources, image, row)
            self._digests[row] = np.frombuffer(digest(encoded), np.uint8)
            scaled = read_scaled(encoded, image, row, self.preprocessing)
            self._cache.put(row, scaled)
        if augment is None:
            return center_crop(scaled, self.preprocessing)
        return random_crop(scaled, self.preprocessing, augment.seed, augment.epoch, row)


class _PixelCache:
    """Scaled pixels by row, until the budget (in bytes) is used up; what is in stays in, since every epoch visits every row."""

    def __init__(self, budget: int) -> None:
        self._left = budget
        self._pixels: dict[int, torch.Tensor] = {}
        self._lock = threading.Lock()

    def get(self, row: int) -> torch.Tensor | None:
        return self._pixels.get(row)

    def put(self, row: int, pixels: torch.Tensor) -> None:
        with self._lock:
            if row in self._pixels or pixels.nbytes > self._left:
                return
            self._left -= pixels.nbytes
            self._pixels[row] = pixels.contiguous()


def batches(rows: Sequence[int], size: int, seed: int, epoch: int) -> list[array[int]]:
    """`rows` shuffled for this epoch, in batches of at most `size` that differ by one row at most."""
    order = np.random.default_rng((seed, epoch)).permutation(np.asarray(rows))
    return [array("q", part.tobytes()) for part in np.array_split(order, math.ceil(len(order) / size))]


def split_rows(labels: Sequence[int], digests: np.ndarray, fraction: float, seed: int) -> Split:
    """Put about `fraction` of each class aside for validation.

    Rows with the same digest (identical bytes) all go to one side, or an image would be validated on what was learnt by
    heart.  A class keeps at least one distinct image for training; which images go is decided by a hash of seed and digest,
    not by their order.
    """
    _distinct, first, group, counts = np.unique(digests.view("V16").ravel(), return_index=True, return_inverse=True, return_counts=True)
    rank = np.fromiter((_rank(seed, digests[row]) for row in first), np.uint64, len(first))
    side = np.full(len(first), _UNDECIDED, np.int8)
    numbers = np.asarray(labels)
    by_label = np.argsort(numbers, kind="stable")
    for rows in np.split(by_label, np.flatnonzero(np.diff(numbers[by_label])) + 1):
        groups = np.unique(group[rows])
        groups = groups[np.argsort(rank[groups], kind="stable")]
        wanted = round(fraction * len(rows))
        for number in groups[side[groups] == _UNDECIDED]:
            alone = number == groups[-1] and not (side[groups] == _TRAINING).any()
            side[number] = _VALIDATION if wanted > 0 and not alone else _TRAINING
            wanted -= int(counts[number]) if side[number] == _VALIDATION else 0
    return Split(*(array("q", np.flatnonzero(side[group] == one).tobytes()) for one in (_TRAINING, _VALIDATION)))


def _rank(seed: int, digest: np.ndarray) -> int:
    chosen = hashlib.blake2b(seed.to_bytes(16, "big", signed=True) + digest.tobytes(), digest_size=8)
    return int.from_bytes(chosen.digest(), "big")


def _number_labels(spool: Spool, known: Sequence[str]) -> tuple[list[str], array[int]]:
    seen: dict[str, int] = {}
    numbers = array("i", (seen.setdefault(row.label, len(seen)) for row in spool.rows()))
    if not numbers:
        raise NoData("the query gave no rows to train on")
    if len(seen) < 2:
        raise DataError(f'all rows have the same label "{next(iter(seen))}"', hint="A classifier needs at least two classes.")
    classes = sorted({*seen, *known})
    place = {seen[label]: index for index, label in enumerate(classes) if label in seen}
    return classes, array("i", (place[number] for number in numbers))
