"""One training on several devices, as its leader sees it.

The leader is the worker that has the BUILD.  It alone has the optimizer, validates, reports and keeps checkpoints.  The other ranks, each
a process with a device, compute gradients for their rows of each batch (`thanoproxy.engine.follower`):

    leader    Compute, the network ──>  all compute, each its rows
                           Computed <──
              Sum     the gradients <──
              one step

The sum is what one device would have but for rounding: each rank divides by the weight of the whole batch, and draws what is dropped for
the whole batch.  DistributedDataParallel averages gradients while they are being computed, so a rank that ran out of memory half-way could
not begin again in smaller parts; and with an optimizer in each process, the loss of one would cost all of them what they had.  Here it
costs a step, which those that are left do again, and one that is ready may join at any batch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Protocol

import numpy as np
import torch
from torch import nn

from thanoproxy.engine.dataset import Augment, Dataset
from thanoproxy.engine.device import Device
from thanoproxy.engine.group import Broken, Group, backend_for
from thanoproxy.engine.orders import Answer, Compute, Computed, Join, Order, Plan, Ready, Sum, Training
from thanoproxy.engine.progress import Step
from thanoproxy.engine.shares import News, Result, Share, Work

__all__ = ["Leader", "Rank", "StartRanks", "gradients", "values"]

START_SECONDS = 180.0
"""torch and CUDA are a few gigabytes to read, and so may the rows be."""

PATIENCE = 120.0
"""Seconds that a rank may take for its rows of a batch, with files that are slow to read."""

POLL = 0.0005


class Rank(Protocol):
    """Another process.  All but `end` raise `Broken`, with the reason, where it is gone."""

    @property
    def device(self) -> str: ...

    def check(self) -> None: ...

    def tell(self, order: Order) -> None: ...

    def heard(self) -> Answer | None:
        """What it has said, if anything; a failure is raised as `Broken`."""

    def end(self) -> None:
        """End it, and return when it is gone."""


StartRanks = Callable[[Training, int], Sequence[Rank]]
"""Starts the other ranks; the number is the descriptor of the file through which their group finds together.  Raises OSError."""


class Leader:
    """Rank 0.  Those that `start` starts train along from when all of them are ready; until then, and without them, it trains alone."""

    def __init__(self, training: Training, start: StartRanks, network: nn.Module, dataset: Dataset, device: Device) -> None:
        self._network = network
        self._dataset = dataset
        self._device = device
        self._weights = np.asarray(training.class_weights)
        self._news: list[News] = []
        self._store = os.memfd_create("ranks")
        self._starting: list[Rank] = []
        self._others: list[Rank] = []
        self._group: Group | None = None
        self._groups = 0
        self._values: list[torch.Tensor] = []
        self._late = time.monotonic() + START_SECONDS
        try:
            self._starting += start(training, self._store)
        except OSError as error:
            self._news.append(News("the processes that should train along cannot be started", str(error)))

    def all_ready(self) -> bool:
        """Whether those that were started are, or are gone."""
        for rank in list(self._starting):
            try:
                answer = _hear(rank, self._late)
            except Broken as broken:
                self._lose(rank, broken)
            else:
                if isinstance(answer, Ready):
                    self._starting.remove(rank)
                    self._others.append(rank)
        return not self._starting

    def shares(self, plan: Sequence[Sequence[int]], augment: Augment | None) -> Generator[Share, None, None]:
        done = 0
        while done < len(plan):
            rest = plan[done:]
            if self.all_ready() and self._others and self._group is None:
                self._form()
            size = self._size
            if not self._tell_plan(rest, size, augment):
                continue
            with closing(self._dataset.batches([rows[::size] for rows in rest], augment)) as loaded:
                for rows, batch in zip(rest, loaded, strict=True):
                    yield Share(batch, len(rows), range(0, len(rows), size), self._weight(rows))
                    if self._size != size:  # a rank was lost in this step
                        break
                    done += 1
                    if self._starting and self.all_ready() and self._others:
                        break

    def total(self, share: Share, seed: int, compute: Work) -> Generator[Step, None, Result | None]:
        group = self._group
        if group is None:
            return (yield from compute())
        if not self._all_there():
            return None
        assert share.weight is not None, "a leader's"
        try:
            for rank in self._others:
                rank.tell(Compute(share.whole, share.weight, seed))
            yield from group.spread(self._values)
            loss, right = yield from compute()
            self._device.synchronize()  # what is still being computed would keep the others waiting inside the sum
            if not (yield from self._all_computed()) or not self._all_there():
                return None
            for rank in self._others:
                rank.tell(Sum())
            sums = torch.stack([loss.float(), right.float()])
            yield from group.add([*gradients(self._network), sums])
        except Broken as broken:
            self._lose_all(broken)
            return None
        return sums[0], sums[1].long()

    def news(self) -> list[News]:
        news, self._news = self._news, []
        return news

    def close(self) -> None:
        for rank in (*self._starting, *self._others):
            rank.end()
        self._leave()
        if self._store >= 0:
            os.close(self._store)
            self._store = -1

    @property
    def _size(self) -> int:
        return 1 if self._group is None else 1 + len(self._others)

    def _weight(self, rows: Sequence[int]) -> float:
        return float(self._weights[np.asarray(self._dataset.labels)[rows]].sum())

    def _form(self) -> None:
        """Make a group of those that are there."""
        devices = [self._device.name, *(rank.device for rank in self._others)]
        backend = backend_for(devices)
        self._groups += 1
        self._values = values(self._network)
        try:
            for number, rank in enumerate(self._others, 1):
                rank.tell(Join(self._groups, number, len(devices), backend))
            self._group = Group(self._device, backend, self._store, self._groups, 0, len(devices), self._check)
        except Broken as broken:
            self._lose_all(broken)
        else:
            self._news.append(News(f"training goes on on {len(devices)} devices", f"They are {', '.join(devices)}."))

    def _tell_plan(self, plan: Sequence[Sequence[int]], size: int, augment: Augment | None) -> bool:
        """Whether all in the group know their rows of the next batches."""
        for number, rank in enumerate(self._others if self._group is not None else (), 1):
            try:
                rank.tell(Plan([np.asarray(rows[number::size], np.int64).tobytes() for rows in plan], augment))
            except Broken as broken:
                self._lose(rank, broken)
                return False
        return True

    def _all_computed(self) -> Generator[None, None, bool]:
        """Wait for the others; whether all are still there."""
        late = time.monotonic() + PATIENCE
        complete, waiting = True, list(self._others)
        while waiting:
            for rank in list(waiting):
                try:
                    answer = _hear(rank, late)
                except Broken as broken:
                    self._lose(rank, broken)
                    complete = False
                    waiting.remove(rank)
                else:
                    if isinstance(answer, Computed):
                        waiting.remove(rank)
            if waiting:
                time.sleep(POLL)
                yield
        return complete

    def _all_there(self) -> bool:
        """Where nobody is inside a collective, those that are gone harm no others."""
        for rank in list(self._others):
            try:
                rank.check()
            except Broken as broken:
                self._lose(rank, broken)
        return self._group is not None

    def _check(self) -> None:
        for rank in self._others:
            rank.check()

    def _lose(self, rank: Rank, why: Broken) -> None:
        """Those that are left wait for orders, and will be a new group."""
        self._leave()
        rank.end()
        for ranks in (self._starting, self._others):
            if rank in ranks:
                ranks.remove(rank)
        self._news.append(News(f"the process that was to train along on {rank.device} is lost; training goes on without it", str(why)))

    def _lose_all(self, why: Broken) -> None:
        """What those that are left wait for will never come."""
        lost, self._others = self._others, []
        for rank in lost:
            rank.end()
        self._leave()
        self._news.append(News(f"the processes that trained along are lost; training goes on on {self._device.name} alone", str(why)))

    def _leave(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.close()


def _hear(rank: Rank, late: float) -> Answer | None:
    answer = rank.heard()
    if answer is None and time.monotonic() > late:
        raise Broken("It took too long.")
    return answer


def values(network: nn.Module) -> list[torch.Tensor]:
    """All that a network computes with."""
    return [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]


def gradients(network: nn.Module) -> list[torch.Tensor]:
    """Of all parameters; zeros for one that no row had anything to do with."""
    found = []
    for parameter in network.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        found.append(parameter.grad)
    return found
