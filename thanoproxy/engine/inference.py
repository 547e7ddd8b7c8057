"""Prediction of batches: one, or one while the next one is brought to the device."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch

from thanoproxy.engine.compiling import Compiler
from thanoproxy.engine.device import Device, in_halves
from thanoproxy.engine.model import Model
from thanoproxy.engine.ranking import Ranked, rank
from thanoproxy.engine.staging import Mark, open_staging
from thanoproxy.models.preprocessing import normalize
from thanoproxy.workers import jobs

__all__ = ["Launched", "Part", "Predictor", "Vectors", "predict"]


Vectors = Mapping[jobs.Vector, bytes]
"""Of an image, those that were asked for (see `jobs.Predicted`)."""


class Part(NamedTuple):
    """So many images of a batch, for one model, and what is asked of them."""

    model: Model
    images: int
    vectors: Collection[jobs.Vector]


class Predictor:
    """Predicts batches on one device, in two steps: `launch` tells it what to do, and the `Launched` is asked for what came out.

    All calls come from the device's thread; up to `device.depth` batches may be under way.
    """

    def __init__(self, device: Device, compiler: Compiler | None = None) -> None:
        self._device = device
        self._compiler = compiler
        self._staging = open_staging(device)

    @torch.inference_mode()
    def launch(self, parts: Sequence[Part], images: Sequence[torch.Tensor]) -> Launched:
        """Predict `images`, uint8 (3, crop, crop) each, which come one part after the other; the models of all parts have one backbone.

        A batch that does not fit into the device's memory is halved until it does.  Raises `DeviceOutOfMemory` if one image does not.
        """
        features = in_halves(self._device, partial(self._features, parts[0].model), images)
        slices = features.split_with_sizes([part.images for part in parts])
        found = [self._vectors(part, own) for part, own in zip(parts, slices, strict=True)]
        return Launched(parts, found, self._staging.mark())

    def _features(self, model: Model, images: Sequence[torch.Tensor]) -> torch.Tensor:
        with self._staging.on_device(images) as pixels:
            compiled = None if self._compiler is None else self._compiler.features(model, pixels)
            if compiled is not None:
                return compiled
            return model.features(normalize(pixels, model.preprocessing, model.dtype))

    def _vectors(self, part: Part, features: torch.Tensor) -> dict[jobs.Vector, torch.Tensor]:
        """(n, …) float32 each, on the CPU once the batch is done."""
        tensors: dict[jobs.Vector, torch.Tensor] = {"features": features, "probabilities": part.model.scores(features).softmax(1)}
        return {vector: self._staging.fetch(tensors[vector].float()) for vector in part.vectors}


class Launched:
    """A batch that the device has been told to predict.  Any one thread may ask for its results."""

    def __init__(self, parts: Sequence[Part], found: Sequence[Mapping[jobs.Vector, torch.Tensor]], mark: Mark | None) -> None:
        self._parts = parts
        self._found = found
        self._mark = mark

    def wait(self) -> None:
        """Return when it is done.  Raises what the device has failed with."""
        mark, self._mark = self._mark, None
        if mark is not None:
            mark.synchronize()

    def collect(self) -> list[Vectors]:
        """Those of each image."""
        self.wait()
        return [vectors for part, found in zip(self._parts, self._found, strict=True) for vectors in _of_each(part.images, found)]


def predict(model: Model, pixels: torch.Tensor, top_k: int) -> list[Ranked]:
    """The `top_k` best classes (or all, if there are fewer) of each image of uint8 (n, 3, crop, crop), at once."""
    wanted: tuple[jobs.Vector, ...] = ("probabilities",)
    found = Predictor(model.device).launch([Part(model, len(pixels), wanted)], list(pixels)).collect()
    return rank([vectors["probabilities"] for vectors in found], top_k)


def _of_each(images: int, found: Mapping[jobs.Vector, torch.Tensor]) -> list[Vectors]:
    rows = {vector: _rows(tensor) for vector, tensor in found.items()}
    return [{vector: of[image] for vector, of in rows.items()} for image in range(images)]


def _rows(tensor: torch.Tensor) -> list[bytes]:
    return [row.tobytes() for row in tensor.contiguous().numpy().astype("<f4", copy=False)]
