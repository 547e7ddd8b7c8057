"""What a probability is worth: scores are divided by one number, so that of the predictions with 0.9 nine in ten are right.

Temperature scaling (Guo et al. 2017, arXiv:1706.04599): the order of the classes stays, so nothing but the probabilities changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

__all__ = ["BINS", "calibration_error", "fit_temperature"]

BINS = 15
"""As in the paper; `thanoproxy.statements.metrics` has the same."""

_LEAST, _MOST = 0.02, 50.0
_STEPS = 60
_GOLDEN = (math.sqrt(5) - 1) / 2


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature at which (n, classes) `logits` say best how sure one may be of them; 1.0 where there are none.

    It minimises the log loss as if one image more had been predicted wrong (the rule of succession, as Platt has it): where all of a few
    images are right, they do not prove that all others will be.
    """
    count, classes = logits.shape
    if not count or classes < 2:
        return 1.0
    scores = logits.detach().double().cpu()
    doubt = 1 / (count + 2)
    targets = torch.full_like(scores, doubt / (classes - 1)).scatter_(1, labels.cpu()[:, None], 1 - doubt)

    def loss(logarithm: float) -> float:
        return -float((targets * (scores / math.exp(logarithm)).log_softmax(1)).sum())

    # The loss is convex in 1/temperature, so it has one minimum in any function of it that only rises.
    return math.exp(_golden_section(loss, math.log(_LEAST), math.log(_MOST)))


def _golden_section(loss: Callable[[float], float], low: float, high: float) -> float:
    """Where `loss`, which falls and then rises, is least."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(_STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = loss(right)
    return (low + high) / 2


def calibration_error(logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> float:
    """The expected calibration error at this temperature: predictions are put into bins by their confidence, and the mean is taken, over
    the images, of how far confidence and share of right ones are apart in each bin."""
    confidence, predicted = (logits.detach().double().cpu() / temperature).softmax(1).max(1)
    surplus = confidence - (predicted == labels.cpu()).double()
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    return float(torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, surplus).abs().sum()) / len(labels)
