"""Whose turn it is on a device: a pure decision, taken at every batch boundary.

    interactive PREDICTs   before   bulk PREDICTs   before   a training step

There is no waiting: whatever is ready is taken, and all that is ready for the same backbone shares a batch, up to its size, whichever
heads are behind it.  So that nobody starves, `PATIENCE` says how many turns in a row may pass over somebody who is ready.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["PATIENCE", "Passed", "Ready", "Turn", "next_turn"]

PATIENCE = {"bulk": 16, "training": 8}


@dataclass(frozen=True)
class Ready:
    """Some decoded rows that wait for the device.  Models with the same `backbone` can share a batch; `order` is when they came."""

    backbone: str
    rows: int
    bulk: bool
    batch_size: int
    order: int


@dataclass(frozen=True)
class Passed:
    """How many turns in a row went to others while these were ready."""

    bulk: int = 0
    training: int = 0


class Turn(NamedTuple):
    """What to do now: predict `chosen` (indices into what was ready) in one batch, take one training step, or nothing; and what to
    remember for the next decision."""

    kind: Literal["predict", "train", "idle"]
    chosen: list[int]
    passed: Passed


def next_turn(ready: Sequence[Ready], training: bool, passed: Passed) -> Turn:
    """Decide.  The first of those with precedence names the backbone; all ready rows for it that still fit come along."""
    bulk_waits = any(one.bulk for one in ready)
    if not ready:
        return Turn("train" if training else "idle", [], Passed())
    if training and passed.training >= PATIENCE["training"]:
        return Turn("train", [], Passed(bulk=passed.bulk + bulk_waits))
    bulk_first = passed.bulk >= PATIENCE["bulk"]
    order = sorted(range(len(ready)), key=lambda at: (ready[at].bulk != bulk_first, ready[at].order))
    first = ready[order[0]]
    chosen: list[int] = []
    rows = 0
    for at in order:
        fits = not chosen or rows + ready[at].rows <= first.batch_size
        if ready[at].backbone == first.backbone and fits:
            chosen.append(at)
            rows += ready[at].rows
    served_bulk = any(ready[at].bulk for at in chosen)
    return Turn(
        "predict",
        chosen,
        Passed(bulk=0 if served_bulk or not bulk_waits else passed.bulk + 1, training=passed.training + 1 if training else 0),
    )
