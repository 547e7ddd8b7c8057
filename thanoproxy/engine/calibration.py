"""What a probability is worth: scores are divided by one number, so that of the predictions with 0.9 nine in ten are right.

Temperature scaling (Guo et al. 2017, arXiv:1706.04599): the order of the classes stays, so nothing but the probabilities changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional

__all__ = ["BINS", "calibration_error", "fit_temperature"]

BINS = 15
"""As in the paper; `thanoproxy.statements.metrics` has the same."""

_SPREAD = math.log(2)
"""How far a temperature is from 1 before anything is known: within a factor of 2 for two networks of three, of 4 for nearly all.

A few images that are all right would make it 0 otherwise, and the log loss of others infinite.  On 80 of 400 photos of cats and dogs
(a network that needs no correction) this keeps log loss and calibration error of 400 others near what they were without any.
"""

_LEAST, _MOST = math.log(0.02), math.log(50)
_GRID = 40
_STEPS = 25
_ENOUGH = 1 << 20
"""Logits that are looked at: one number is known well from so many, and nobody waits long for it."""

_GOLDEN = (math.sqrt(5) - 1) / 2


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature at which (n, classes) `logits` have the least log loss, given `_SPREAD`; 1.0 where there are none."""
    if logits.numel() == 0:
        return 1.0
    rows = slice(None, None, 1 + logits.numel() // _ENOUGH)
    scores, right = logits[rows].detach().double().cpu(), labels[rows].cpu()

    def loss(logarithm: float) -> float:
        return float(functional.cross_entropy(scores / math.exp(logarithm), right, reduction="sum")) + (logarithm / _SPREAD) ** 2 / 2

    # A sum of two may have more than one minimum, if they are far apart: so look everywhere first.
    width = (_MOST - _LEAST) / _GRID
    best = min((_LEAST + width * at for at in range(_GRID + 1)), key=loss)
    return math.exp(_golden_section(loss, best - width, best + width))


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
