"""A rank that follows: it has a device, reads its rows of each batch, and computes their gradients (see `thanoproxy.engine.ranks`).

It does as it is told, one order after the other, and keeps nothing: the network comes anew for each batch.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

from thanoproxy.engine.dataset import Batch, Dataset, Split
from thanoproxy.engine.device import Device
from thanoproxy.engine.group import Group
from thanoproxy.engine.orders import Answer, Compute, Computed, Join, Order, Plan, Ready, Sum, Training
from thanoproxy.engine.progress import Meter
from thanoproxy.engine.ranks import gradients, values
from thanoproxy.engine.shares import Share
from thanoproxy.engine.training import Trainer
from thanoproxy.images import Sources
from thanoproxy.images.loader import LoaderThreads
from thanoproxy.models import registry
from thanoproxy.workers.spool import Spool

__all__ = ["follow"]

T = TypeVar("T")


def follow(
    training: Training,
    store: int,
    device: Device,
    sources: Sources,
    threads: LoaderThreads,
    pixel_budget: int,
    answer: Callable[[Answer], None],
    orders: Iterator[Order],
) -> None:
    """Get ready, and do what `orders` says until it ends.  Raises what is wrong with an image, and what the device fails with."""
    follower = _Follower(training, store, device, sources, threads, pixel_budget)
    answer(Ready())
    for order in orders:
        match order:
            case Join():
                follower.join(order)
            case Plan():
                follower.plan(order)
            case Compute():
                follower.compute(order)
                answer(Computed())
            case Sum():
                follower.add()


class _Follower:
    def __init__(self, training: Training, store: int, device: Device, sources: Sources, threads: LoaderThreads, pixel_budget: int) -> None:
        architecture = registry.lookup(training.architecture).load()
        spool = Spool(training.spool)
        self._dataset = Dataset(spool, sources, threads, training.preprocessing, pixel_budget=pixel_budget, known=training.known)
        drop_path = training.recipe.drop_path
        self._network = architecture.make(len(self._dataset.classes), pretrained=not training.fresh, drop_path=drop_path)
        self._trainer = Trainer(
            self._network,
            architecture,
            training.recipe,
            self._dataset,
            Split(array("q"), array("q")),
            device,
            fresh=training.fresh,
            class_weights=torch.tensor(training.class_weights),
        )
        self._values = values(self._network)
        self._sums = torch.zeros(2, device=device.device)
        self._device = device
        self._store = store
        self._group: Group | None = None
        self._rank = self._size = 0
        self._rows: Iterator[list[int]] = iter(())
        self._loaded: Generator[Batch, None, None] | None = None

    def join(self, order: Join) -> None:
        if self._group is not None:
            self._group.close()
        self._group = Group(self._device, order.backend, self._store, order.number, order.rank, order.size)
        self._rank, self._size = order.rank, order.size

    def plan(self, order: Plan) -> None:
        if self._loaded is not None:
            self._loaded.close()
        plan: Sequence[list[int]] = [np.frombuffer(rows, np.int64).tolist() for rows in order.rows]
        self._rows = iter(plan)
        self._loaded = self._dataset.batches([rows for rows in plan if rows], order.augment)

    def compute(self, order: Compute) -> None:
        assert self._group is not None, "it was told to join first"
        assert self._loaded is not None, "and what it is to read"
        _finish(self._group.spread(self._values))
        self._network.zero_grad(set_to_none=True)
        self._sums.zero_()
        if next(self._rows):
            share = Share(next(self._loaded), order.whole, range(self._rank, order.whole, self._size), order.weight)
            parts = _finish(self._trainer.gradients(share, order.seed, Meter("")))
            self._sums = torch.stack([part.float() for part in parts])
            self._device.synchronize()

    def add(self) -> None:
        assert self._group is not None, "it was told to join first"
        _finish(self._group.add([*gradients(self._network), self._sums]))


def _finish(steps: Generator[object, None, T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
