"""Prediction of batches: one, or one while the next one is brought to the device."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from thanoproxy.engine.compiling import Compiler
from thanoproxy.engine.device import Device, is_out_of_memory
from thanoproxy.engine.model import Model
from thanoproxy.engine.staging import Mark, open_staging
from thanoproxy.errors import DeviceOutOfMemory
from thanoproxy.models.preprocessing import normalize
from thanoproxy.workers import jobs

__all__ = ["Launched", "Part", "Predictor", "Ranking", "predict"]


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
        features = self._features(parts[0].model, images)
        slices = features.split_with_sizes([part.images for part in parts])
        ranked = [self._rank(part, own) for part, own in zip(parts, slices, strict=True)]
        return Launched(ranked, self._staging.mark())

    def _features(self, model: Model, images: Sequence[torch.Tensor]) -> torch.Tensor:
        try:
            with self._staging.on_device(images) as pixels:
                compiled = None if self._compiler is None else self._compiler.features(model, pixels)
                if compiled is not None:
                    return compiled
                return model.features(normalize(pixels, model.preprocessing, model.dtype))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(images) == 1:
                raise DeviceOutOfMemory("not even one image fits into the device's memory", detail=str(error)) from None
        # Outside of the handler, whose traceback keeps the failed attempt's tensors alive.
        self._device.release()
        half = len(images) // 2
        return torch.cat([self._features(model, images[:half]), self._features(model, images[half:])])

    def _rank(self, part: Part, features: torch.Tensor) -> _Ranked:
        probabilities = part.model.scores(features).softmax(1)
        best = torch.topk(probabilities, min(part.top_k, len(part.model.classes)))
        tensors: dict[jobs.Vector, torch.Tensor] = {"features": features, "probabilities": probabilities}
        fetch = self._staging.fetch
        return _Ranked(fetch(best.indices), fetch(best.values), {vector: fetch(tensors[vector].float()) for vector in part.vectors})


class Launched:
    """A batch that the device has been told to predict.  Any one thread may ask for its results."""

    def __init__(self, ranked: Sequence[_Ranked], mark: Mark | None) -> None:
        self._ranked = ranked
        self._mark = mark

    def wait(self) -> None:
        """Return when it is done.  Raises what the device has failed with."""
        mark, self._mark = self._mark, None
        if mark is not None:
            mark.synchronize()

    def collect(self) -> list[Ranking]:
        """One for each image."""
        self.wait()
        return [ranking for ranked in self._ranked for ranking in ranked.rankings()]


class _Ranked(NamedTuple):
    """A part's results, on the CPU once the batch is done: (n, top_k) class numbers and probabilities, (n, …) float32 vectors."""

    indices: torch.Tensor
    values: torch.Tensor
    vectors: Mapping[jobs.Vector, torch.Tensor]

    def rankings(self) -> Iterator[Ranking]:
        rows = {vector: _rows(tensor) for vector, tensor in self.vectors.items()}
        for row, (classes, scores) in enumerate(zip(self.indices.tolist(), self.values.tolist(), strict=True)):
            yield Ranking(tuple(classes), tuple(scores), {vector: of[row] for vector, of in rows.items()})


def predict(model: Model, pixels: torch.Tensor, top_k: int, vectors: Collection[jobs.Vector] = ()) -> list[Ranking]:
    """The `top_k` best classes (or all, if there are fewer) and the `vectors` of each image of uint8 (n, 3, crop, crop), at once."""
    return Predictor(model.device).launch([Part(model, len(pixels), top_k, vectors)], list(pixels)).collect()


def _rows(tensor: torch.Tensor) -> list[bytes]:
    return [row.tobytes() for row in tensor.contiguous().numpy().astype("<f4", copy=False)]
