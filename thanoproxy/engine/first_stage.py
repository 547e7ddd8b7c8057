"""What comes before all of a network is trained: one pass over all images, and where there are weights to begin with, the head alone.

The pass finds missing and damaged images, and which are the same, before anything is learnt from them.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field

import msgspec
import numpy as np
import torch
from torch import nn

from thanoproxy.engine.beginning import Beginning
from thanoproxy.engine.checkpoint import State
from thanoproxy.engine.dataset import Dataset, Split
from thanoproxy.engine.device import Device
from thanoproxy.engine.features import Features
from thanoproxy.engine.frozen import Frozen
from thanoproxy.engine.head import Scores, fit_head, logits_of, read, written
from thanoproxy.engine.pieces import in_pieces
from thanoproxy.engine.progress import Meter, Step
from thanoproxy.engine.staging import Pace, open_staging
from thanoproxy.engine.training import Limits
from thanoproxy.models.architecture import Architecture
from thanoproxy.workers import jobs

__all__ = ["Candidate", "Stage", "class_weights", "first_stage"]

CPU_SECONDS = 120.0
"""tune='auto' fine-tunes on a CPU only if that is estimated to take no longer than this."""

BACKWARD = 3.0
"""A training step costs about this many forward passes."""


@dataclass
class Candidate:
    """A network that may be published, by its validation scores."""

    tune: str
    scores: Scores | None
    training: Scores | None
    state: dict[str, torch.Tensor]


@dataclass
class Stage:
    """Where this stage leaves off; `goes_on` says that all of the network is to be trained next."""

    split: Split
    candidates: list[Candidate] = field(default_factory=list)
    log: list[jobs.Epoch] = field(default_factory=list)
    goes_on: bool = True

    def state(self, architecture: Architecture) -> State:
        """For a checkpoint: of a network whose head alone was trained, only that."""
        head = architecture.head_name + "."
        candidates = [
            {
                "tune": one.tune,
                "scores": written(one.scores),
                "training": written(one.training),
                "state": {name: tensor for name, tensor in one.state.items() if name.startswith(head)},
            }
            for one in self.candidates
        ]
        return {
            "split": [torch.from_numpy(np.asarray(rows)) for rows in self.split],
            "candidates": candidates,
            "log": msgspec.to_builtins(self.log),
        }

    @classmethod
    def read(cls, state: State, network: nn.Module) -> Stage:
        """The inverse, given the network as it was in the beginning."""
        candidates = []
        for kept in state["candidates"]:
            scores, training = (read(kept[name]) for name in ("scores", "training"))
            whole = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
            candidates.append(Candidate(kept["tune"], scores, training, {**whole, **kept["state"]}))
        split = Split(*(array("q", rows.numpy().tobytes()) for rows in state["split"]))
        return cls(split, candidates, msgspec.convert(state["log"], list[jobs.Epoch]))


def first_stage(
    network: nn.Module, beginning: Beginning, dataset: Dataset, options: jobs.TrainOptions, device: Device, meter: Meter
) -> Generator[Step, None, Stage]:
    """See above.  `network` is left as the next stage begins with it."""
    if beginning.weights is None or options.tune == "full":
        yield from _scan(dataset, device, meter)
        return Stage(dataset.split(options.validation_split, options.seed))
    with closing(Features(device)) as features:
        yield from _features(network, beginning.architecture, dataset, features, device, meter)
        rate = meter.images_per_second
        stage = Stage(dataset.split(options.validation_split, options.seed))
        head = yield from _fit(network, beginning, dataset, features, stage.split, options, device, meter, stage.log)
    stage.candidates.append(head)
    stage.goes_on = options.tune == "auto" and _worth_it(head, stage.split, options, device, rate)
    cut_short = stage.goes_on or len(stage.log) < options.epochs
    if cut_short and Limits(seconds=options.max_seconds).late(meter):
        stage.goes_on = False
        yield meter.remark("max_seconds: the time was up when the last layer had been trained, and that is kept")
    return stage


def class_weights(dataset: Dataset, split: Split, options: jobs.TrainOptions) -> torch.Tensor:
    """What an image of each class counts, float32 (classes,)."""
    chosen = options.class_weights
    if chosen is None:
        return torch.ones(len(dataset.classes))
    if chosen != "balanced":
        return torch.tensor(chosen)
    weights = dataset.class_weights(split.training)
    # Smoothing gives a share of every label to all classes: one that a FIT has no images of must not count as if it were the rarest.
    there = np.bincount(np.asarray(dataset.labels)[split.training], minlength=len(dataset.classes)) > 0
    return torch.where(torch.from_numpy(there), weights, 1.0)


def _scan(dataset: Dataset, device: Device, meter: Meter) -> Generator[Step, None, None]:
    yield meter.begin("loading", len(dataset))
    with closing(dataset.scan(device.predict_batch)) as scanned:
        for batch in scanned:
            yield meter.advance(len(batch.rows))


def _features(
    network: nn.Module, architecture: Architecture, dataset: Dataset, features: Features, device: Device, meter: Meter
) -> Generator[Step, None, None]:
    """The frozen backbone's features of every row, in order."""
    yield meter.begin("features", len(dataset))
    frozen = Frozen(network, architecture, dataset.preprocessing, device)
    staging = open_staging(device)
    pace = Pace(staging, device.depth)
    with closing(dataset.scan(device.predict_batch)) as scanned:
        for batch in scanned:
            with staging.on_device(batch.pixels) as pixels:
                features.add(frozen.features(pixels), batch.labels)
            pace.step()
            yield meter.advance(len(batch.rows))


def _fit(
    network: nn.Module,
    beginning: Beginning,
    dataset: Dataset,
    features: Features,
    split: Split,
    options: jobs.TrainOptions,
    device: Device,
    meter: Meter,
    log: list[jobs.Epoch],
) -> Generator[Step, None, Candidate]:
    yield meter.begin("head", options.epochs * len(split.training))
    head = beginning.architecture.head(network)
    weights = class_weights(dataset, split, options).to(device.device)
    limits = Limits(seconds=options.max_seconds)
    training, validation = map(features.table, split)
    warm = bool(beginning.known)
    fitting = in_pieces(device, lambda pause: fit_head(head, training, validation, weights, epochs=options.epochs, warm=warm, pause=pause))
    with closing(fitting):
        for entry in fitting:
            if entry is None:
                yield meter.advance(0)
                continue
            log.append(entry)
            meter.advance(len(training), loss=entry.loss, accuracy=entry.accuracy)
            yield meter.report(entry)
            if limits.late(meter):
                break
    last = log[-1]
    scores = None
    if last.validation_loss is not None and last.validation_accuracy is not None:
        scores = Scores(last.validation_loss, last.validation_accuracy, *logits_of(head, validation))
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    return Candidate("head", scores, Scores(last.loss, last.accuracy or 0.0), state)


def _worth_it(head: Candidate, split: Split, options: jobs.TrainOptions, device: Device, images_per_second: float) -> bool:
    """Whether fine-tuning after the head can pay: something is left to gain, and on a CPU it ends soon."""
    if head.scores is not None and head.scores.accuracy == 1.0:
        return False
    seconds = BACKWARD * options.epochs * len(split.training) / max(images_per_second, 1e-9)
    return device.is_cuda or seconds <= CPU_SECONDS
