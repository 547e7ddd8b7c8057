"""The head alone: logistic regression on features of the frozen backbone, computed once.

Fitted by L-BFGS over all rows at once, which for a convex problem of this size takes under a second and has no learning rate to get
wrong.  Features are standardised first, which conditions the problem; the result is folded back into a plain Linear layer.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from thanoproxy.workers import jobs

__all__ = ["Scores", "Table", "fit_head", "score_logits"]

ITERATIONS = 100
PENALTY = 10.0
"""Of the squared weights, in units of one example: weights go towards zero as if this many examples asked for it."""


@dataclass(frozen=True)
class Table:
    """float32 (n, f) features and int64 (n,) labels, on the device."""

    features: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Scores:
    """How well logits fit their labels: mean cross-entropy and the share that is right; and both, where they will be calibrated."""

    loss: float
    accuracy: float
    logits: torch.Tensor | None = field(default=None, compare=False, repr=False)
    labels: torch.Tensor | None = field(default=None, compare=False, repr=False)


def written(scores: Scores | None) -> dict[str, object] | None:
    """For a checkpoint."""
    return None if scores is None else dict(vars(scores))


def read(kept: dict[str, Any] | None) -> Scores | None:
    """The inverse."""
    return None if kept is None else Scores(**kept)


def fit_head(
    head: nn.Linear, training: Table, validation: Table, class_weights: torch.Tensor, *, epochs: int, warm: bool = False
) -> Generator[jobs.Epoch, None, None]:
    """Set `head` to the best linear classifier of `training`; yields after each of `epochs` equal shares of the iterations.

    `warm` begins with what `head` is, and the penalty draws towards that instead of zero.  `validation` may be empty; it is measured,
    not learnt from.  Not in torch's inference mode.
    """
    mean, deviation = training.features.mean(0), training.features.std(0, correction=0).clamp_min(1e-6)
    inputs = (training.features - mean) / deviation
    with torch.no_grad():
        before = (head.weight * deviation if warm else torch.zeros_like(head.weight)).float()
        bias = (head.bias + head.weight @ mean if warm else torch.zeros_like(head.bias)).float().requires_grad_()
    weight = before.clone().requires_grad_()
    share = max(1, ITERATIONS // epochs)
    solver = torch.optim.LBFGS([weight, bias], max_iter=share, history_size=10, line_search_fn="strong_wolfe", tolerance_grad=1e-6)

    def objective() -> torch.Tensor:
        solver.zero_grad()
        loss = functional.cross_entropy(functional.linear(inputs, weight, bias), training.labels, class_weights)
        total = loss + PENALTY / (2 * len(training)) * (weight - before).square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    for epoch in range(1, epochs + 1):
        started = time.monotonic()
        solver.step(objective)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            scaled = weight / deviation
            head.weight.copy_(scaled)
            head.bias.copy_(bias - scaled @ mean)
            fit = score_logits(head(training.features), training.labels)
            check = score_logits(head(validation.features), validation.labels) if len(validation) else None
        yield jobs.Epoch(
            epoch=epoch,
            loss=fit.loss,
            accuracy=fit.accuracy,
            validation_loss=check.loss if check else None,
            validation_accuracy=check.accuracy if check else None,
            learning_rate=1.0,
            seconds=time.monotonic() - started,
        )


def score_logits(logits: torch.Tensor, labels: torch.Tensor) -> Scores:
    """Scores of (n, classes) logits."""
    logits = logits.detach().float()
    loss = functional.cross_entropy(logits, labels)
    return Scores(float(loss), float((logits.argmax(1) == labels).float().mean()))
