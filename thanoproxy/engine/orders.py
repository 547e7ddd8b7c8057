"""What the leader of a training says to the other ranks, and they to it.  Numbers of images go this way; tensors go through the group."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from thanoproxy.engine.dataset import Augment
from thanoproxy.models.architecture import Recipe
from thanoproxy.models.preprocessing import Preprocessing
from thanoproxy.workers import jobs

__all__ = ["Answer", "Compute", "Computed", "Failed", "Join", "Order", "Plan", "Ready", "Sum", "Training"]


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """The training as far as it is the same for all ranks and all of the time; see `thanoproxy.engine.training.Trainer`."""

    architecture: str
    recipe: Recipe
    preprocessing: Preprocessing
    spool: str
    known: tuple[str, ...]
    class_weights: list[float]
    fresh: bool


class Join(msgspec.Struct, frozen=True, tag="join"):
    """Leave the group that there was, and form group `number` as rank `rank` of `size`."""

    number: int
    rank: int
    size: int
    backend: str


class Plan(msgspec.Struct, frozen=True, tag="plan"):
    """The numbers of the rows that are this rank's in each of the next batches, eight bytes each."""

    rows: list[bytes]
    augment: Augment | None


class Compute(msgspec.Struct, frozen=True, tag="compute"):
    """Take over the leader's network, and compute the gradients for the next batch of the plan.

    The batch has `whole` rows, and they weigh `weight` together; what is dropped is drawn from `seed`.
    """

    whole: int
    weight: float
    seed: int


class Sum(msgspec.Struct, frozen=True, tag="sum"):
    """Add what was computed to the sum."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Waits for orders: the first answer."""


class Computed(msgspec.Struct, frozen=True, tag="computed"):
    """Waits for `Sum`."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The last answer: the process ends."""

    failure: jobs.Failure


Order: TypeAlias = Join | Plan | Compute | Sum
Answer: TypeAlias = Ready | Computed | Failed
