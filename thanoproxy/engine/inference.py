"""Prediction of one batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch

from thanoproxy.engine.device import is_out_of_memory
from thanoproxy.engine.model import Model
from thanoproxy.errors import DeviceOutOfMemory
from thanoproxy.models.preprocessing import normalize
from thanoproxy.workers import jobs

__all__ = ["Ranking", "predict"]


class Ranking(NamedTuple):
    """Class numbers and their probabilities, best first; and the vectors that were asked for, as bytes (see `jobs.Predicted`)."""

    classes: tuple[int, ...]
    scores: tuple[float, ...]
    vectors: Mapping[jobs.Vector, bytes]


def predict(model: Model, pixels: torch.Tensor, top_k: int, vectors: Collection[jobs.Vector] = ()) -> list[Ranking]:
    """The `top_k` best classes (or all, if there are fewer) and the `vectors` of each image of uint8 (n, 3, crop, crop).

    A batch that does not fit into the device's memory is halved until it does.  Raises `DeviceOutOfMemory` if one image does not.
    """
    try:
        return _predict(model, pixels, top_k, vectors)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(pixels) == 1:
            raise DeviceOutOfMemory("not even one image fits into the device's memory", detail=str(error)) from None
    # Outside of the handler, whose traceback keeps the failed attempt's tensors alive.
    model.device.release()
    half = len(pixels) // 2
    return predict(model, pixels[:half], top_k, vectors) + predict(model, pixels[half:], top_k, vectors)


@torch.inference_mode()
def _predict(model: Model, pixels: torch.Tensor, top_k: int, vectors: Collection[jobs.Vector]) -> list[Ranking]:
    device = model.device
    if device.is_cuda:
        pixels = pixels.pin_memory().to(device.device, non_blocking=True)
    features = model.features(normalize(pixels, model.preprocessing, device.predict_dtype))
    probabilities = model.scores(features).softmax(1)
    best = torch.topk(probabilities, min(top_k, len(model.classes)))
    tensors: dict[jobs.Vector, torch.Tensor] = {"features": features, "probabilities": probabilities}
    rows = {vector: _rows(tensors[vector]) for vector in vectors}
    return [
        Ranking(tuple(classes), tuple(scores), {vector: of[row] for vector, of in rows.items()})
        for row, (classes, scores) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    ]


def _rows(tensor: torch.Tensor) -> list[bytes]:
    return [row.tobytes() for row in tensor.float().cpu().contiguous().numpy().astype("<f4", copy=False)]
