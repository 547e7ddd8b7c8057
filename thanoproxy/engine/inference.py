"""Prediction of one batch."""

from __future__ import annotations

from typing import NamedTuple

import torch

from thanoproxy.engine.device import is_out_of_memory
from thanoproxy.engine.model import Model
from thanoproxy.errors import DeviceOutOfMemory
from thanoproxy.models.preprocessing import normalize

__all__ = ["Ranking", "predict"]


class Ranking(NamedTuple):
    """Class numbers and their probabilities, best first."""

    classes: tuple[int, ...]
    scores: tuple[float, ...]


def predict(model: Model, pixels: torch.Tensor, top_k: int) -> list[Ranking]:
    """The `top_k` best classes (or all, if there are fewer) of each image of uint8 (n, 3, crop, crop).

    A batch that does not fit into the device's memory is halved until it does.  Raises `DeviceOutOfMemory` if one image does not.
    """
    try:
        return _predict(model, pixels, top_k)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(pixels) == 1:
            raise DeviceOutOfMemory("not even one image fits into the device's memory", detail=str(error)) from None
    # Outside of the handler, whose traceback keeps the failed attempt's tensors alive.
    model.device.release()
    half = len(pixels) // 2
    return predict(model, pixels[:half], top_k) + predict(model, pixels[half:], top_k)


@torch.inference_mode()
def _predict(model: Model, pixels: torch.Tensor, top_k: int) -> list[Ranking]:
    device = model.device
    if device.is_cuda:
        pixels = pixels.pin_memory().to(device.device, non_blocking=True)
    scores = model.network(normalize(pixels, model.preprocessing, device.predict_dtype))
    best = torch.topk(scores.float().softmax(1), min(top_k, len(model.classes)))
    return [
        Ranking(tuple(classes), tuple(probabilities))
        for classes, probabilities in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
