"""BUILD: from a spool of rows to an artifact.

    check the options - find the weights - number the labels - one pass over all images (features, or pixels alone) - split -
    fit the head - fine-tune everything, where that is asked for or worth it - publish what validated better

`build` is a generator that yields at every batch boundary; closing it stops the job with nothing left behind.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from torch import nn

from thanoproxy.catalog.artifacts import ArtifactStore
from thanoproxy.engine.calibration import calibration_error, fit_temperature
from thanoproxy.engine.dataset import Batch, Dataset, Split
from thanoproxy.engine.device import Device
from thanoproxy.engine.head import Scores, Table, fit_head
from thanoproxy.engine.model import save_model
from thanoproxy.engine.progress import Meter, Step, Steps
from thanoproxy.engine.training import Trainer
from thanoproxy.errors import InvalidOption
from thanoproxy.images import Sources
from thanoproxy.images.loader import LoaderThreads
from thanoproxy.models import registry
from thanoproxy.models.architecture import Architecture, Recipe
from thanoproxy.models.preprocessing import Preprocessing, normalize
from thanoproxy.models.weights import Weights, WeightsFinder, put_into
from thanoproxy.workers import jobs
from thanoproxy.workers.spool import Spool

__all__ = ["Workshop", "build"]

CPU_SECONDS = 120.0
"""tune='auto' fine-tunes on a CPU only if that is estimated to take no longer than this."""

BACKWARD = 3.0
"""A training step costs about this many forward passes."""


@dataclass(frozen=True)
class Workshop:
    """What every BUILD on this device uses."""

    device: Device
    store: ArtifactStore
    sources: Sources
    threads: LoaderThreads
    weights: WeightsFinder
    pixel_budget: int


@dataclass
class _Candidate:
    """A network that may be published, by its validation scores."""

    tune: str
    scores: Scores | None
    training: Scores | None
    state: dict[str, torch.Tensor]


def build(request: jobs.Build, workshop: Workshop) -> Steps:
    """Train what `request` asks for and save it.  Yields progress or None at each batch boundary; returns the `Built`.

    Raises `ThanoError`s: what is wrong with the options, the rows, an image or the weights.
    """
    meter = Meter(request.job)
    yield meter.begin("loading")
    architecture = registry.lookup(request.architecture).load()
    options = _checked(request.options, architecture)
    weights = workshop.weights.find(architecture, options.weights) if options.pretrained else None
    spool = Spool(request.spool)
    try:
        return (yield from _train(request.job, options, architecture, weights, spool, workshop, meter))
    finally:
        spool.close()


def _checked(options: jobs.TrainOptions, architecture: Architecture) -> jobs.TrainOptions:
    """Raises `InvalidOption` for what no architecture, or not this one, can do."""
    if not options.pretrained and options.weights is not None:
        raise InvalidOption("options weights and pretrained=false contradict each other")
    if not options.pretrained and options.tune == "head":
        raise InvalidOption(
            "option tune='head' needs pretrained weights",
            hint="From scratch there is nothing to freeze: leave tune out, or use tune='full'.",
        )
    if options.input_size is not None and not architecture.smallest <= options.input_size <= 1024:
        raise InvalidOption(f"option input_size must be between {architecture.smallest} and 1024 for {architecture.name}")
    if options.epochs < 1 or (options.batch_size is not None and options.batch_size < 1):
        raise InvalidOption("options epochs and batch_size must be at least 1")
    if options.learning_rate is not None and options.learning_rate <= 0:
        raise InvalidOption("option learning_rate must be greater than 0")
    if not 0 <= options.seed < 2**63:
        raise InvalidOption("option seed must be at least 0 and fit into 64 bits")
    if not 0 <= options.validation_split < 1:
        raise InvalidOption("option validation_split must be at least 0 and less than 1")
    return options


def _train(
    job: str,
    options: jobs.TrainOptions,
    architecture: Architecture,
    weights: Weights | None,
    spool: Spool,
    workshop: Workshop,
    meter: Meter,
) -> Steps:
    preprocessing = architecture.preprocessing(input_size=options.input_size, color=options.color, pretrained=options.pretrained)
    dataset = Dataset(spool, workshop.sources, workshop.threads, preprocessing, pixel_budget=workshop.pixel_budget)
    recipe = _recipe(architecture, options)
    network = _make(architecture, options, recipe, weights, len(dataset.classes)).to(workshop.device.device)

    candidates: list[_Candidate] = []
    log: list[jobs.Epoch] = []
    with_head = weights is not None and options.tune != "full"
    if with_head:
        features = yield from _features(network, architecture, dataset, workshop.device, meter)
        rate = meter.images_per_second
        split = dataset.split(options.validation_split, options.seed)
        candidates.append((yield from _fit(network, architecture, dataset, features, split, options, meter, log)))
    else:
        yield from _scan(dataset, workshop.device, meter)
        split = dataset.split(options.validation_split, options.seed)

    if not with_head or (options.tune == "auto" and _worth_it(candidates[0], split, options, workshop.device, rate)):
        recipe = replace(recipe, head_factor=1.0) if with_head else recipe
        trainer = Trainer(network, architecture, recipe, dataset, split, workshop.device, fresh=weights is None)
        trained = yield from trainer.run(meter, epochs=options.epochs, seed=options.seed, augment=options.augment, first_epoch=len(log) + 1)
        log += trained.log
        candidates.append(_Candidate("full", trained.scores, trained.training, trained.state))

    yield meter.begin("saving")
    best = _best(candidates)
    network.load_state_dict(best.state)
    used = _options_used(options, recipe, preprocessing, best, weights)
    temperature, error = _calibrated(best.scores)
    metrics = {**_metrics(best, split, meter), "calibration_error": error}
    saved = save_model(
        workshop.store,
        network,
        architecture,
        classes=dataset.classes,
        preprocessing=preprocessing,
        metrics=metrics,
        options=used,
        temperature=temperature,
    )
    return jobs.Built(
        job=job,
        artifact=saved.id,
        architecture=architecture.name,
        classes=dataset.classes,
        images=len(dataset),
        metrics=metrics,
        options=used,
        size_bytes=saved.size_bytes,
        seconds=meter.seconds,
        log=log,
    )


def _recipe(architecture: Architecture, options: jobs.TrainOptions) -> Recipe:
    recipe = architecture.fine_tune if options.pretrained else architecture.from_scratch
    recipe = recipe.with_options(learning_rate=options.learning_rate, batch_size=options.batch_size)
    # Dropping paths needs time to pay; in one or two epochs it only costs.
    return recipe if options.epochs > 2 else replace(recipe, drop_path=0.0)


def _make(architecture: Architecture, options: jobs.TrainOptions, recipe: Recipe, weights: Weights | None, classes: int) -> nn.Module:
    torch.manual_seed(options.seed)
    network = architecture.make(classes, pretrained=options.pretrained, drop_path=recipe.drop_path)
    if weights is not None:
        put_into(network, weights, architecture)
        nn.init.trunc_normal_(architecture.head(network).weight, std=0.02)
        nn.init.zeros_(architecture.head(network).bias)
    return network


def _scan(dataset: Dataset, device: Device, meter: Meter) -> Generator[Step, None, None]:
    yield meter.begin("loading", len(dataset))
    with closing(dataset.scan(device.predict_batch)) as scanned:
        for batch in scanned:
            yield meter.advance(len(batch.rows))


def _features(
    network: nn.Module, architecture: Architecture, dataset: Dataset, device: Device, meter: Meter
) -> Generator[Step, None, Table]:
    """The frozen backbone's features of every row, in order."""
    yield meter.begin("features", len(dataset))
    network.eval().to(memory_format=torch.channels_last)
    parts, labels = [], []
    with closing(dataset.scan(device.predict_batch)) as scanned:
        for batch in scanned:
            parts.append(_forward(network, architecture, batch, dataset.preprocessing, device))
            labels.append(batch.labels)
            yield meter.advance(len(batch.rows))
    return Table(torch.cat(parts), torch.cat(labels).to(device.device))


@torch.no_grad()
def _forward(network: nn.Module, architecture: Architecture, batch: Batch, preprocessing: Preprocessing, device: Device) -> torch.Tensor:
    with torch.autocast(device.device.type, torch.bfloat16, enabled=device.is_cuda):
        images = normalize(batch.pixels.to(device.device), preprocessing, torch.float32)
        return architecture.features(network, images).float()


def _fit(
    network: nn.Module,
    architecture: Architecture,
    dataset: Dataset,
    features: Table,
    split: Split,
    options: jobs.TrainOptions,
    meter: Meter,
    log: list[jobs.Epoch],
) -> Generator[Step, None, _Candidate]:
    yield meter.begin("head", options.epochs * len(split.training))
    weights = dataset.class_weights(split.training).to(features.features.device)
    training, validation = (Table(features.features[rows], features.labels[rows]) for rows in split)
    for entry in fit_head(architecture.head(network), training, validation, weights, epochs=options.epochs):
        log.append(entry)
        meter.advance(len(training), loss=entry.loss, accuracy=entry.accuracy)
        yield meter.report(entry)
    last = log[-1]
    scores = None
    if last.validation_loss is not None and last.validation_accuracy is not None:
        with torch.no_grad():
            logits = architecture.head(network)(validation.features)
        scores = Scores(last.validation_loss, last.validation_accuracy, logits, validation.labels)
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    return _Candidate("head", scores, Scores(last.loss, last.accuracy or 0.0), state)


def _worth_it(head: _Candidate, split: Split, options: jobs.TrainOptions, device: Device, images_per_second: float) -> bool:
    """Whether fine-tuning after the head can pay: something is left to gain, and on a CPU it ends soon."""
    if head.scores is not None and head.scores.accuracy == 1.0:
        return False
    seconds = BACKWARD * options.epochs * len(split.training) / max(images_per_second, 1e-9)
    return device.is_cuda or seconds <= CPU_SECONDS


def _best(candidates: list[_Candidate]) -> _Candidate:
    """The one that validated best; the first of equals, and the last where nothing was validated."""
    if any(candidate.scores is None for candidate in candidates):
        return candidates[-1]
    return max(candidates, key=lambda one: (one.scores.accuracy, -one.scores.loss) if one.scores else (0.0, 0.0))


def _calibrated(scores: Scores | None) -> tuple[float, float | None]:
    """The temperature, and the calibration error that it leaves; 1 and unknown where nothing was validated."""
    if scores is None or scores.logits is None or scores.labels is None:
        return 1.0, None
    temperature = fit_temperature(scores.logits, scores.labels)
    return temperature, calibration_error(scores.logits, scores.labels, temperature)


def _options_used(
    options: jobs.TrainOptions, recipe: Recipe, preprocessing: Preprocessing, best: _Candidate, weights: Weights | None
) -> dict[str, object]:
    """Every option with the value that was used, so that a BUILD can be done again."""
    return {
        "epochs": options.epochs,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "input_size": preprocessing.crop,
        "color": options.color,
        "pretrained": options.pretrained,
        "weights": weights.name if weights is not None else None,
        "tune": best.tune,
        "seed": options.seed,
        "augment": options.augment,
        "validation_split": options.validation_split,
    }


def _metrics(best: _Candidate, split: Split, meter: Meter) -> dict[str, float | None]:
    return {
        "accuracy": best.training.accuracy if best.training else None,
        "loss": best.training.loss if best.training else None,
        "validation_accuracy": best.scores.accuracy if best.scores else None,
        "validation_loss": best.scores.loss if best.scores else None,
        "training_images": float(len(split.training)),
        "validation_images": float(len(split.validation)),
        "seconds": meter.seconds,
    }
