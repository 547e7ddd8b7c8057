"""BUILD from rows to artifact."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from tests.engine.conftest import Rows
from thanoproxy.catalog.artifacts import Folder
from thanoproxy.engine import first_stage
from thanoproxy.engine.build import Workshop, build
from thanoproxy.engine.inference import predict
from thanoproxy.engine.model import load_model
from thanoproxy.engine.pieces import in_pieces
from thanoproxy.engine.pixels import read_cropped
from thanoproxy.errors import DataError, FileFailure, FileUnavailable, InvalidOption, UndefinedObject
from thanoproxy.images.loader import finish
from thanoproxy.models.mobilenet import V2
from thanoproxy.workers import jobs

RunBuild = Callable[..., tuple[jobs.Built, list[jobs.Progress]]]


def accuracy(built: jobs.Built, workshop: Workshop, rows: Rows) -> float:
    model = load_model(workshop.store, built.artifact, workshop.device)
    pixels = torch.stack([finish(read_cropped(workshop.sources, image, 0, model.preprocessing)) for image, _ in rows if image is not None])
    found = [model.classes[ranking.classes[0]] for ranking in predict(model, pixels, 1)]
    return sum(one == label for one, (_, label) in zip(found, rows, strict=True)) / len(rows)


def test_the_head_alone(run_build: RunBuild, workshop: Workshop, pictures: tuple[Path, Rows]) -> None:
    built, reports = run_build(pictures[1], epochs=2)
    assert (built.architecture, built.classes, built.images) == ("MobileNet_V2", ["blue", "red"], 40)
    assert built.metrics["validation_accuracy"] == 1.0
    assert built.metrics["validation_images"] == 8
    assert (built.options["tune"], built.options["weights"]) == ("head", "mobilenet_v2.safetensors")
    assert accuracy(built, workshop, pictures[1]) == 1.0
    assert list(dict.fromkeys(report.phase for report in reports)) == ["loading", "features", "head", "saving"]
    assert [report.epoch.epoch for report in reports if report.epoch] == [1, 2]
    assert built.log == [report.epoch for report in reports if report.epoch]


def test_others_have_the_device_while_the_head_is_fitted(
    workshop: Workshop, spooled: Callable[[Rows], str], pictures: tuple[Path, Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_stage, "in_pieces", partial(in_pieces, seconds=0))
    options = jobs.TrainOptions(input_size=32, epochs=1, tune="head")
    steps = build(jobs.Build("job", "MobileNet_V2", spooled(pictures[1]), options), workshop)
    while not isinstance(step := next(steps), jobs.Progress) or step.phase != "head":
        pass
    turns = 0
    while not isinstance(next(steps), jobs.Progress):
        turns += 1
    assert turns > 5, "one at least for each value of what is minimised"
    steps.close()


def test_what_cannot_be_saved_is_not_trained(run_build: RunBuild, workshop: Workshop, pictures: tuple[Path, Rows]) -> None:
    folder = workshop.store.files
    assert isinstance(folder, Folder)
    Path(folder.root).write_text("in the way")
    with pytest.raises(FileFailure, match="weights of the model cannot be written"):
        run_build([("gone.png", label) for _, label in pictures[1]])


def test_weights_that_are_no_numbers_are_not_published(
    run_build: RunBuild, workshop: Workshop, pictures: tuple[Path, Rows], weights_root: Path
) -> None:
    tensors = load((weights_root / "mobilenet_v2.safetensors").read_bytes())
    tensors["features.18.0.weight"][0] = torch.inf
    save_file(tensors, weights_root / "overflown.safetensors")
    with pytest.raises(DataError, match="not finite numbers"):
        run_build(pictures[1], weights="overflown.safetensors")
    assert list(workshop.store.identities()) == []


def test_from_scratch(run_build: RunBuild, workshop: Workshop, pictures: tuple[Path, Rows]) -> None:
    built, reports = run_build(pictures[1], pretrained=False, tune="auto", epochs=6, learning_rate=2e-3, augment=False)
    assert built.options["pretrained"] is False
    assert built.options["weights"] is None
    assert accuracy(built, workshop, pictures[1]) >= 0.9
    assert [report.epoch.epoch for report in reports if report.epoch] == [1, 2, 3, 4, 5, 6]
    last = [report for report in reports if report.phase == "training"][-1]
    assert last.images_done == last.images_total == 6 * 32


def test_convnext_from_scratch(run_build: RunBuild, workshop: Workshop, pictures: tuple[Path, Rows]) -> None:
    built, _ = run_build(pictures[1][:24], architecture="CONVNEXT_TINY", pretrained=False, tune="full", epochs=1, augment=False)
    assert built.architecture == "ConvNeXt_Tiny"
    assert accuracy(built, workshop, pictures[1]) >= 0.8


def test_fine_tuning_everything(run_build: RunBuild, workshop: Workshop, pictures: tuple[Path, Rows]) -> None:
    built, reports = run_build(pictures[1], tune="full", epochs=6, learning_rate=2e-3, augment=False)
    assert built.options["tune"] == "full"
    assert "features" not in {report.phase for report in reports}
    assert built.log[-1].loss < built.log[0].loss
    trained = load(workshop.store.weights(built.artifact, workshop.store.manifest(built.artifact)))
    before = workshop.weights.find(V2, None).tensors
    assert not torch.equal(trained["features.0.0.weight"], before["features.0.0.weight"]), "the stem learns too"


def test_auto_goes_on_after_the_head_only_where_something_is_left_to_gain(run_build: RunBuild, pictures: tuple[Path, Rows]) -> None:
    easy, _ = run_build(pictures[1], tune="auto")
    assert easy.options["tune"] == "head"
    # Labels that have nothing to do with the pictures: the head cannot be right on all of them.
    hard: Rows = [(image, "even" if int(str(image).removesuffix(".png")) // 2 % 2 else "odd") for image, _ in pictures[1]]
    built, reports = run_build(hard, tune="auto", epochs=2)
    assert [report.epoch.epoch for report in reports if report.epoch] == [1, 2, 3, 4]
    head, full = built.log[1], built.log[2:]
    assert head.validation_accuracy is not None
    best = max(entry.validation_accuracy or 0.0 for entry in [head, *full])
    assert built.metrics["validation_accuracy"] == best


def test_without_validation_the_scores_are_unknown_not_zero(run_build: RunBuild, pictures: tuple[Path, Rows]) -> None:
    for options in ({}, {"pretrained": False, "tune": "full"}):
        built, _ = run_build(pictures[1], validation_split=0.0, **options)
        assert built.metrics["validation_accuracy"] is None
        assert built.metrics["training_images"] == 40


def test_grey_and_bytea(run_build: RunBuild, workshop: Workshop, pictures: tuple[Path, Rows]) -> None:
    folder, rows = pictures
    inline: Rows = [((folder / str(image)).read_bytes(), label) for image, label in rows]
    built, _ = run_build(inline, color="GRAY")
    assert workshop.store.manifest(built.artifact).preprocessing["color"] == "GRAY"
    assert accuracy(built, workshop, rows) >= 0.9


def test_the_same_build_gives_the_same_weights(run_build: RunBuild, workshop: Workshop, pictures: tuple[Path, Rows]) -> None:
    digests = {workshop.store.manifest(run_build(pictures[1], seed=5)[0].artifact).weights_sha256 for _ in range(2)}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pretrained": False, "weights": "x.pth"}, "weights and pretrained=false contradict"),
        ({"pretrained": False, "tune": "head"}, "tune='head' needs pretrained weights"),
        ({"input_size": 8}, "input_size must be between 32 and 1024 for MobileNet_V2"),
        ({"epochs": 0}, "must be at least 1"),
        ({"batch_size": 0}, "must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be greater than 0"),
        ({"seed": -1}, "seed must be"),
        ({"validation_split": 1.0}, "validation_split must be"),
    ],
)
def test_options_that_cannot_be(run_build: RunBuild, pictures: tuple[Path, Rows], options: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        run_build(pictures[1], **options)


def test_weights_are_asked_for_before_any_image_is_read(run_build: RunBuild) -> None:
    rows: Rows = [("missing.png", "a"), ("missing too.png", "b")]
    with pytest.raises(FileUnavailable, match="no pretrained weights for ConvNeXt_Tiny"):
        run_build(rows, architecture="ConvNeXt_Tiny", tune="auto")
    with pytest.raises(FileUnavailable, match=r'image file "missing\.png" is not available'):
        run_build(rows)
    with pytest.raises(UndefinedObject):
        run_build(rows, architecture="ResNet")


def test_closing_it_at_any_boundary_leaves_nothing(
    workshop: Workshop, spooled: Callable[[Rows], str], pictures: tuple[Path, Rows], tmp_path: Path
) -> None:
    options = jobs.TrainOptions(pretrained=False, input_size=32, batch_size=8, epochs=1)
    for stop_after in (1, 3, 6, 9):
        steps = build(jobs.Build("stopped", "MobileNet_V2", spooled(pictures[1]), options), workshop)
        for _ in range(stop_after):
            next(steps)
        steps.close()
    assert not (tmp_path / "models").exists()


@pytest.mark.alone
def test_someone_waiting_never_waits_longer_than_a_batch(
    workshop: Workshop, spooled: Callable[[Rows], str], pictures: tuple[Path, Rows]
) -> None:
    options = jobs.TrainOptions(pretrained=False, input_size=32, batch_size=4, epochs=2, augment=False)
    steps = build(jobs.Build("yields", "MobileNet_V2", spooled(pictures[1]), options), workshop)
    waits, before = [], time.monotonic()
    for _ in steps:
        waits.append(time.monotonic() - before)
        before = time.monotonic()
    assert len(waits) >= 16
    assert sorted(waits)[len(waits) * 3 // 4] < 0.5
