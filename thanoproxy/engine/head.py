"""The head alone: logistic regression on features of the frozen backbone, computed once.

Fitted by L-BFGS over all rows, which for a convex problem of this size takes under a second and has no learning rate to get wrong.
Features are standardised first, which conditions the problem; the result is folded back into a plain Linear layer.  The rows come in
parts, since there may be more of them than memory, and with many classes more logits; what is summed over the parts is what it would be
over all rows at once.  Between two parts somebody else may have the device.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from thanoproxy.engine.pieces import Pause
from thanoproxy.workers import jobs

__all__ = ["LOGITS", "Examples", "Scores", "Table", "fit_head", "logits_of", "score_logits"]

ITERATIONS = 100
PENALTY = 10.0
"""Of the squared weights, in units of one example: weights go towards zero as if this many examples asked for it."""


LOGITS = 1 << 24
"""Logits of a validation that are kept for the calibration, which looks at fewer; the first ones, where there are more."""


PART_LOGITS = 1 << 22
"""Logits that are computed at once: 16 MB, and a tenth of a second on two cores."""


def _no_pause() -> None:
    """Nobody waits for the device."""


class Examples(ABC):
    """Features and labels of `len` rows."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def parts(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """float32 (n, f) features and int64 (n,) labels of all rows in order, on the device, some at a time."""


@dataclass(frozen=True)
class Table(Examples):
    """All of them in memory."""

    features: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def parts(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if len(self):
            yield self.features, self.labels


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
    head: nn.Linear,
    training: Examples,
    validation: Examples,
    class_weights: torch.Tensor,
    *,
    epochs: int,
    warm: bool = False,
    pause: Pause = _no_pause,
) -> Generator[jobs.Epoch, None, None]:
    """Set `head` to the best linear classifier of `training`; yields after each of `epochs` equal shares of the iterations.

    `warm` begins with what `head` is, and the penalty draws towards that instead of zero.  `validation` may be empty; it is measured,
    not learnt from.  `pause` is called between two parts of the work.  Not in torch's inference mode.
    """
    mean, deviation, share_of_all = _moments(training, class_weights, pause)
    with torch.no_grad():
        before = (head.weight * deviation if warm else torch.zeros_like(head.weight)).float()
        bias = (head.bias + head.weight @ mean if warm else torch.zeros_like(head.bias)).float().requires_grad_()
    weight = before.clone().requires_grad_()
    share = max(1, ITERATIONS // epochs)
    solver = torch.optim.LBFGS([weight, bias], max_iter=share, history_size=10, line_search_fn="strong_wolfe", tolerance_grad=1e-6)
    standardised = _Standardised(training, mean, deviation)

    def objective() -> torch.Tensor:
        solver.zero_grad()
        total = PENALTY / (2 * len(training)) * (weight - before).square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        for inputs, labels in _small_parts(standardised, head.out_features, pause):
            loss = functional.cross_entropy(functional.linear(inputs, weight, bias), labels, class_weights, reduction="sum") / share_of_all
            loss.backward()  # type: ignore[no-untyped-call]
            total = total.detach() + loss.detach()
        return total

    for epoch in range(1, epochs + 1):
        started = time.monotonic()
        solver.step(objective)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            scaled = weight / deviation
            head.weight.copy_(scaled)
            head.bias.copy_(bias - scaled @ mean)
            fit = _score(head, training, pause)
            check = _score(head, validation, pause) if len(validation) else None
        yield jobs.Epoch(
            epoch=epoch,
            loss=fit.loss,
            accuracy=fit.accuracy,
            validation_loss=check.loss if check else None,
            validation_accuracy=check.accuracy if check else None,
            learning_rate=1.0,
            seconds=time.monotonic() - started,
        )


@torch.no_grad()
def logits_of(head: nn.Linear, examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 (n, classes) logits and their labels: of all rows, or of the first that make `LOGITS`."""
    logits, labels, left = [], [], max(1, LOGITS // head.out_features)
    for features, own in _small_parts(examples, head.out_features, _no_pause):
        logits.append(head(features[:left]))
        labels.append(own[:left])
        left -= len(logits[-1])
        if not left:
            break
    return torch.cat(logits), torch.cat(labels)


def score_logits(logits: torch.Tensor, labels: torch.Tensor) -> Scores:
    """Scores of (n, classes) logits."""
    logits = logits.detach().float()
    loss = functional.cross_entropy(logits, labels)
    return Scores(float(loss), float((logits.argmax(1) == labels).float().mean()))


class _Standardised(Examples):
    """Features of zero mean and unit deviation: made once where they are one part, anew at each reading where they are more."""

    def __init__(self, examples: Examples, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        self._examples, self._mean, self._deviation = examples, mean, deviation
        self._only = next(self._made()) if isinstance(examples, Table) else None

    def __len__(self) -> int:
        return len(self._examples)

    def parts(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self._made() if self._only is None else iter([self._only])

    def _made(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return (((features - self._mean) / self._deviation, labels) for features, labels in self._examples.parts())


def _small_parts(examples: Examples, classes: int, pause: Pause) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The parts, divided so that none has more than `PART_LOGITS`."""
    size = max(1, PART_LOGITS // classes)
    for features, labels in examples.parts():
        for at in range(0, len(labels), size):
            yield features[at : at + size], labels[at : at + size]
            pause()


@torch.no_grad()
def _moments(examples: Examples, class_weights: torch.Tensor, pause: Pause) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Mean and deviation of each feature, the latter above 0; and what all rows weigh together."""
    sums, weights = torch.zeros((), dtype=torch.float64), 0.0
    for features, labels in examples.parts():
        sums = sums + features.sum(0, dtype=torch.float64).cpu()
        weights += float(class_weights[labels].sum(dtype=torch.float64))
        pause()
    mean = sums / len(examples)
    squares = torch.zeros_like(mean)
    for features, _ in examples.parts():
        squares += (features - mean.to(features)).square_().sum(0, dtype=torch.float64).cpu()
        pause()
    deviation = (squares / len(examples)).sqrt().clamp_min(1e-6)
    return mean.to(class_weights), deviation.to(class_weights), weights


def _score(head: nn.Linear, examples: Examples, pause: Pause) -> Scores:
    loss, right = 0.0, 0.0
    for features, labels in _small_parts(examples, head.out_features, pause):
        part = score_logits(head(features), labels)
        loss += part.loss * len(labels)
        right += part.accuracy * len(labels)
    return Scores(loss / len(examples), right / len(examples))
