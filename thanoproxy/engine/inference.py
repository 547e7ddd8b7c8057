"""Prediction of one batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch

from thanoproxy.engine.device import is_out_of_memory
from thanoproxy.engine.model import Model
from thanoproxy.errors import DeviceOutOfMemory
from thanoproxy.models.preprocessing import normalize
from thanoproxy.workers import jobs

__all__ = ["Part", "Ranking", "predict", "predict_together"]


class Ranking(NamedTuple):
    """Class numbers and their probabilities, best first; and the vectors that were asked for, as bytes (see `jobs.Predicted`)."""

    classes: tuple[int, ...]
    scores: tuple[float, ...]
    vectors: Mapping[jobs.Vector, bytes]


class Part(NamedTuple):
    """So many images of a batch, for one model: what is asked of them is as in `predict`."""

    model: Model
    images: int
    top_k: int
    vectors: Collection[jobs.Vector] = ()


def predict(model: Model, pixels: torch.Tensor, top_k: int, vectors: Collection[jobs.Vector] = ()) -> list[Ranking]:
    """The `top_k` best classes (or all, if there are fewer) and the `vectors` of each image of uint8 (n, 3, crop, crop).

    A batch that does not fit into the device's memory is halved until it does.  Raises `DeviceOutOfMemory` if one image does not.
    """
    return predict_together([Part(model, len(pixels), top_k, vectors)], pixels)


@torch.inference_mode()
def predict_together(parts: Sequence[Part], pixels: torch.Tensor) -> list[Ranking]:
    """The same for several models of one backbone, whose images come one part after the other: the features are computed at once."""
    features = _features(parts[0].model, pixels)
    slices = features.split_with_sizes([part.images for part in parts])
    return [ranking for part, own in zip(parts, slices, strict=True) for ranking in _rank(part, own)]


def _features(model: Model, pixels: torch.Tensor) -> torch.Tensor:
    device = model.device
    try:
        moved = pixels.pin_memory().to(device.device, non_blocking=True) if device.is_cuda else pixels
        return model.features(normalize(moved, model.preprocessing, device.predict_dtype))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(pixels) == 1:
            raise DeviceOutOfMemory("not even one image fits into the device's memory", detail=str(error)) from None
    # Outside of the handler, whose traceback keeps the failed attempt's tensors alive.
    device.release()
    half = len(pixels) // 2
    return torch.cat([_features(model, pixels[:half]), _features(model, pixels[half:])])


def _rank(part: Part, features: torch.Tensor) -> list[Ranking]:
    probabilities = part.model.scores(features).softmax(1)
    best = torch.topk(probabilities, min(part.top_k, len(part.model.classes)))
    tensors: dict[jobs.Vector, torch.Tensor] = {"features": features, "probabilities": probabilities}
    rows = {vector: _rows(tensors[vector]) for vector in part.vectors}
    return [
        Ranking(tuple(classes), tuple(scores), {vector: of[row] for vector, of in rows.items()})
        for row, (classes, scores) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    ]


def _rows(tensor: torch.Tensor) -> list[bytes]:
    return [row.tobytes() for row in tensor.float().cpu().contiguous().numpy().astype("<f4", copy=False)]
