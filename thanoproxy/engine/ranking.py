"""From the probability of each class to the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

__all__ = ["Ranked", "rank"]


class Ranked(NamedTuple):
    """Class numbers and their probabilities, best first."""

    classes: tuple[int, ...]
    scores: tuple[float, ...]


def rank(probabilities: Sequence[bytes], top_k: int) -> list[Ranked]:
    """The `top_k` best classes (or all, if there are fewer) of each image, whose probabilities are as in `jobs.Predicted`.

    Always on the CPU, and of an image's own probabilities alone: so the answer is the same whichever others it was predicted with, on
    whichever device, and however long ago; also where several classes have the same.
    """
    if not (probabilities and top_k):
        return [Ranked((), ())] * len(probabilities)
    table = np.frombuffer(b"".join(probabilities), "<f4").reshape(len(probabilities), -1)
    best = torch.topk(torch.from_numpy(table.astype(np.float32)), min(top_k, table.shape[1]))
    return [Ranked(tuple(classes), tuple(scores)) for classes, scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
