"""Who computes which rows of a training's batches: one device all of them (`Alone`), or several a share each (`engine.ranks`)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import NamedTuple, Protocol

import torch

from thanoproxy.engine.dataset import Augment, Batch, Dataset
from thanoproxy.engine.progress import Step

__all__ = ["Alone", "News", "Ranks", "Result", "Share", "Work"]

Result = tuple[torch.Tensor, torch.Tensor]
"""A batch's mean loss and how many were right, on the device."""


Work = Callable[[], Generator[Step, None, Result]]
"""Somebody else may use the device wherever it yields."""


class Share(NamedTuple):
    """What one rank computes of a batch of `whole` rows: those at `places`.  `weight` is what the whole weighs, None for what these do."""

    batch: Batch
    whole: int
    places: range
    weight: float | None = None

    @classmethod
    def all_of(cls, batch: Batch) -> Share:
        return cls(batch, len(batch.rows), range(len(batch.rows)))


class News(NamedTuple):
    """What the client should know."""

    message: str
    detail: str | None = None


class Ranks(Protocol):
    """Who trains."""

    def shares(self, plan: Sequence[Sequence[int]], augment: Augment | None) -> Generator[Share, None, None]:
        """This process's rows of each batch.  A batch comes again, perhaps divided otherwise, if `total` was None for it."""

    def total(self, share: Share, seed: int, compute: Work) -> Generator[Step, None, Result | None]:
        """`compute` leaves the share's gradients in the network; then those of the whole batch are there.  None where a rank was lost."""

    def news(self) -> list[News]:
        """Since this was asked last."""

    def close(self) -> None:
        """It is over, one way or another."""


class Alone:
    """There is one device."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def shares(self, plan: Sequence[Sequence[int]], augment: Augment | None) -> Generator[Share, None, None]:
        with closing(self._dataset.batches(plan, augment)) as loaded:
            yield from map(Share.all_of, loaded)

    def total(self, share: Share, seed: int, compute: Work) -> Generator[Step, None, Result | None]:
        return (yield from compute())

    def news(self) -> list[News]:
        return []

    def close(self) -> None:
        """There is nothing to close."""
