"""Options that end a training early, weigh its classes, or make it repeatable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.conftest import Rows
from thanoproxy.engine.build import Workshop, build
from thanoproxy.errors import InvalidOption
from thanoproxy.workers import jobs

RunBuild = Callable[..., tuple[jobs.Built, list[jobs.Progress]]]
SCRATCH = {"pretrained": False, "tune": "full", "learning_rate": 2e-3}


@pytest.fixture
def remarks(workshop: Workshop, spooled: Callable[[Rows], str]) -> Callable[..., tuple[jobs.Built, list[str]]]:
    """Runs a BUILD to its end; what it remarks."""

    def run(rows: Rows, **options: object) -> tuple[jobs.Built, list[str]]:
        plain = {"input_size": 32, "batch_size": 8, **options}
        steps = build(jobs.Build("job", "MobileNet_V2", spooled(rows), jobs.TrainOptions(**plain)), workshop)  # type: ignore[arg-type]
        found: list[str] = []
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value, found
            if isinstance(step, jobs.Remark):
                found.append(step.message)

    return run


def test_early_stopping_publishes_the_best_epoch(
    remarks: Callable[..., tuple[jobs.Built, list[str]]], workshop: Workshop, pictures: tuple[Path, Rows]
) -> None:
    built, said = remarks(pictures[1], epochs=40, early_stopping=2, **SCRATCH)
    scores = [(entry.validation_accuracy, -(entry.validation_loss or 0.0)) for entry in built.log]
    best = scores.index(max(scores)) + 1
    assert len(built.log) == best + 2 < 40
    assert said == [f"early_stopping: epoch {best} is kept, since the 2 after it were no better"]
    assert built.metrics["validation_loss"] == built.log[best - 1].validation_loss
    # Up to there it was the same training: the published weights are those of that epoch.
    assert built.options["early_stopping"] == 2


def test_early_stopping_needs_something_to_validate_on(run_build: RunBuild, pictures: tuple[Path, Rows]) -> None:
    with pytest.raises(InvalidOption, match="needs images to validate on"):
        run_build(pictures[1], early_stopping=1, validation_split=0.0)


def test_max_seconds_keeps_what_has_been_learnt(remarks: Callable[..., tuple[jobs.Built, list[str]]], pictures: tuple[Path, Rows]) -> None:
    built, said = remarks(pictures[1], epochs=10_000, max_seconds=1.5, **SCRATCH)
    assert said == [f"max_seconds: training was stopped in epoch {len(built.log)}, and what has been learnt is kept"]
    assert 1.5 < built.seconds < 15
    assert built.metrics["validation_accuracy"] == max(entry.validation_accuracy or 0.0 for entry in built.log)


def test_without_time_at_all_one_step_is_made(remarks: Callable[..., tuple[jobs.Built, list[str]]], pictures: tuple[Path, Rows]) -> None:
    built, said = remarks(pictures[1], epochs=3, max_seconds=1e-6, **SCRATCH)
    assert len(built.log) == len(said) == 1
    built, said = remarks(pictures[1], epochs=3, max_seconds=1e-6)
    assert (built.options["tune"], len(built.log), len(said)) == ("head", 1, 1)


@pytest.mark.parametrize("tune", ["head", "full"])
def test_class_weights(run_build: RunBuild, workshop: Workshop, pictures: tuple[Path, Rows], tune: str) -> None:
    rows = [row for row in pictures[1] if row[1] == "red"] + [row for row in pictures[1] if row[1] == "blue"][:5]

    def weights(chosen: object) -> str:
        built, _ = run_build(rows, tune=tune, class_weights=chosen, epochs=1, augment=False)
        return workshop.store.manifest(built.artifact).weights_sha256

    # Of 20 and 5 images 16 and 4 are learnt from: balanced, an image of the fewer counts four times as much.
    assert weights("balanced") == weights((2.5, 0.625))
    assert weights(None) == weights((1.0, 1.0)) != weights("balanced")


def test_class_weights_are_for_all_classes(run_build: RunBuild, pictures: tuple[Path, Rows]) -> None:
    with pytest.raises(InvalidOption, match="3 numbers for 2 classes") as caught:
        run_build(pictures[1], class_weights=(1.0, 2.0, 3.0))
    assert caught.value.detail == "The classes, in their order: blue, red."


@pytest.mark.usefixtures("narrow")
def test_a_seed_makes_a_training_repeatable(run_build: RunBuild, workshop: Workshop, pictures: tuple[Path, Rows]) -> None:
    def weights(seed: int) -> str:
        built, _ = run_build(pictures[1][:8], architecture="ConvNeXt_Tiny", epochs=3, seed=seed, pretrained=False, tune="full")
        return workshop.store.manifest(built.artifact).weights_sha256

    assert weights(5) == weights(5) != weights(6)
