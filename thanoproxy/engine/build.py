"""BUILD and FIT: from a spool of rows to an artifact.

    check the options - find the weights - number the labels - one pass over all images (features, or pixels alone) - split -
    fit the head - fine-tune everything, where that is asked for or worth it - publish what validated better

`build` is a generator that yields at every batch boundary; closing it stops the job with nothing left behind.
Where the process dies, a checkpoint is left: the same request goes on from there.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace

import torch
from torch import nn

from thanoproxy.catalog.artifacts import ArtifactStore
from thanoproxy.engine.beginning import Beginning, begin
from thanoproxy.engine.calibration import calibration_error, fit_temperature
from thanoproxy.engine.checkpoint import Checkpoint
from thanoproxy.engine.dataset import Dataset, Split
from thanoproxy.engine.device import Device
from thanoproxy.engine.first_stage import Candidate, Stage, class_weights, first_stage
from thanoproxy.engine.head import Scores
from thanoproxy.engine.interrupting import GoOn
from thanoproxy.engine.model import save_model
from thanoproxy.engine.orders import Training
from thanoproxy.engine.progress import Meter, Steps
from thanoproxy.engine.ranks import Leader, StartRanks
from thanoproxy.engine.shares import Alone, Ranks
from thanoproxy.engine.training import Limits, Trainer
from thanoproxy.errors import DataError, InvalidOption
from thanoproxy.images import Sources
from thanoproxy.images.loader import LoaderThreads
from thanoproxy.models import registry
from thanoproxy.models.architecture import Architecture, Recipe
from thanoproxy.models.weights import WeightsFinder
from thanoproxy.workers import jobs
from thanoproxy.workers.spool import Spool

__all__ = ["Workshop", "build"]


@dataclass(frozen=True)
class Workshop:
    """What every BUILD on this device uses; `start_ranks` where it may have others besides."""

    device: Device
    store: ArtifactStore
    sources: Sources
    threads: LoaderThreads
    weights: WeightsFinder
    pixel_budget: int
    start_ranks: StartRanks | None = None


def build(request: jobs.Build, workshop: Workshop, go_on: GoOn | None = None) -> Steps:
    """Train what `request` asks for and save it.  Yields progress or None at each batch boundary; returns the `Built`.

    `go_on` is called within a batch that takes long, and may raise to end it there.

    Raises `ThanoError`s: what is wrong with the options, the rows, an image, the weights or the places where results are kept.
    """
    meter = Meter(request.job)
    yield meter.begin("loading")
    options = _checked(request.options, registry.lookup(request.architecture).load())
    workshop.store.try_out()
    beginning = begin(request, options, workshop.weights, workshop.store)
    checkpoint = Checkpoint(request.checkpoint)
    spool = Spool(request.spool)
    try:
        return (yield from _train(request, options, beginning, spool, workshop, meter, checkpoint, go_on))
    finally:
        spool.close()
        checkpoint.discard()


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
    if options.early_stopping is not None and not options.validation_split:
        raise InvalidOption(
            "option early_stopping needs images to validate on", hint="Leave validation_split out, or give it a number above 0."
        )
    return options


def _train(
    request: jobs.Build,
    options: jobs.TrainOptions,
    beginning: Beginning,
    spool: Spool,
    workshop: Workshop,
    meter: Meter,
    checkpoint: Checkpoint,
    go_on: GoOn | None,
) -> Steps:
    architecture, preprocessing = beginning.architecture, beginning.preprocessing
    dataset = Dataset(spool, workshop.sources, workshop.threads, preprocessing, pixel_budget=workshop.pixel_budget, known=beginning.known)
    _check_class_weights(options, dataset.classes)
    recipe = _recipe(architecture, options)
    network = beginning.network(dataset.classes, recipe, options.seed).to(workshop.device.device)
    state = checkpoint.load()
    if state is None:
        stage = yield from first_stage(network, beginning, dataset, options, workshop.device, meter)
    else:
        stage = Stage.read(state, network)
        meter.resume(state["seconds"])

    split = stage.split
    if stage.goes_on:
        recipe = replace(recipe, head_factor=1.0) if stage.candidates else recipe
        weights = class_weights(dataset, split, options)
        with closing(_ranks(request, recipe, beginning, weights, network, dataset, workshop)) as ranks:
            trainer = Trainer(
                network,
                architecture,
                recipe,
                dataset,
                split,
                workshop.device,
                fresh=beginning.weights is None,
                class_weights=weights,
                ranks=ranks,
                go_on=go_on,
            )
            if state is not None:
                trainer.restore(state["trainer"])

            def keep() -> None:
                checkpoint.save(lambda: {"seconds": meter.seconds, **stage.state(architecture), "trainer": trainer.state()})

            trained = yield from trainer.run(
                meter,
                epochs=options.epochs,
                seed=options.seed,
                augment=options.augment,
                first_epoch=len(stage.log) + 1,
                limits=Limits(options.early_stopping, options.max_seconds),
                keep=keep,
            )
        stage.log += trained.log
        stage.candidates.append(Candidate("full", trained.scores, trained.training, trained.state))

    yield meter.begin("saving")
    best = _best(stage.candidates)
    network.load_state_dict(best.state)
    _require_numbers(network)
    used = _options_used(options, recipe, best, beginning)
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
        job=request.job,
        artifact=saved.id,
        architecture=architecture.name,
        classes=dataset.classes,
        images=len(dataset),
        metrics=metrics,
        options=used,
        size_bytes=saved.size_bytes,
        seconds=meter.seconds,
        log=stage.log,
    )


def _ranks(
    request: jobs.Build,
    recipe: Recipe,
    beginning: Beginning,
    weights: torch.Tensor,
    network: nn.Module,
    dataset: Dataset,
    workshop: Workshop,
) -> Ranks:
    if workshop.start_ranks is None:
        return Alone(dataset)
    training = Training(
        architecture=beginning.architecture.name,
        recipe=recipe,
        preprocessing=beginning.preprocessing,
        spool=request.spool,
        known=beginning.known,
        class_weights=weights.tolist(),
        fresh=beginning.weights is None,
    )
    return Leader(training, workshop.start_ranks, network, dataset, workshop.device)


def _check_class_weights(options: jobs.TrainOptions, classes: list[str]) -> None:
    given = options.class_weights
    if isinstance(given, tuple) and len(given) != len(classes):
        raise InvalidOption(
            f"option class_weights has {len(given)} numbers for {len(classes)} classes",
            detail="The classes, in their order: " + ", ".join(classes) + ".",
        )


def _recipe(architecture: Architecture, options: jobs.TrainOptions) -> Recipe:
    recipe = architecture.fine_tune if options.pretrained else architecture.from_scratch
    recipe = recipe.with_options(learning_rate=options.learning_rate, batch_size=options.batch_size)
    # Dropping paths needs time to pay; in one or two epochs it only costs.
    return recipe if options.epochs > 2 else replace(recipe, drop_path=0.0)


def _require_numbers(network: nn.Module) -> None:
    """Raises `DataError` for weights that overflowed: such a network says nothing of any image."""
    if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
        raise DataError(
            "the training diverged: the weights are not finite numbers any more",
            hint="Use a smaller learning_rate, and see that the pretrained weights are sound.",
        )


def _best(candidates: list[Candidate]) -> Candidate:
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


def _options_used(options: jobs.TrainOptions, recipe: Recipe, best: Candidate, beginning: Beginning) -> dict[str, object]:
    """Every option with the value that was used, so that a BUILD can be done again; a FIT begins with no weights but the model's."""
    preprocessing, weights = beginning.preprocessing, beginning.weights
    own = {} if beginning.known else {"pretrained": options.pretrained, "weights": weights.name if weights is not None else None}
    return {
        **own,
        "epochs": options.epochs,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "input_size": preprocessing.crop,
        "color": preprocessing.color,
        "tune": best.tune,
        "seed": options.seed,
        "augment": options.augment,
        "validation_split": options.validation_split,
        "early_stopping": options.early_stopping,
        "class_weights": options.class_weights,
        "max_seconds": options.max_seconds,
    }


def _metrics(best: Candidate, split: Split, meter: Meter) -> dict[str, float | None]:
    return {
        "accuracy": best.training.accuracy if best.training else None,
        "loss": best.training.loss if best.training else None,
        "validation_accuracy": best.scores.accuracy if best.scores else None,
        "validation_loss": best.scores.loss if best.scores else None,
        "training_images": float(len(split.training)),
        "validation_images": float(len(split.validation)),
        "seconds": meter.seconds,
    }
