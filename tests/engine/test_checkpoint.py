"""A training that goes on from a checkpoint ends as if it had never stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.engine.conftest import Rows
from thanoproxy.engine.build import Workshop, build
from thanoproxy.engine.checkpoint import SHARE, Checkpoint
from thanoproxy.workers import jobs
from thanoproxy.workers.spool import half_written

RunBuild = Callable[..., tuple[jobs.Built, list[jobs.Progress]]]

# With the paths that it drops at random, and with a head that was fitted before.
TRAININGS: list[tuple[str, dict[str, object]]] = [
    ("ConvNeXt_Tiny", {"pretrained": False, "tune": "full"}),
    ("MobileNet_V2", {"tune": "auto", "class_weights": None, "early_stopping": 3}),
]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("architecture", "options"), TRAININGS)
def test_it_ends_as_if_nothing_had_happened(
    run_build: RunBuild,
    workshop: Workshop,
    spooled: Callable[[Rows], str],
    pictures: tuple[Path, Rows],
    tmp_path: Path,
    architecture: str,
    options: dict[str, object],
) -> None:
    # Labels that no head can be right about, so that 'auto' goes on after it.
    rows: Rows = [(image, "even" if int(str(image).removesuffix(".png")) // 2 % 2 else "odd") for image, _ in pictures[1][:24]]
    options = {"input_size": 32, "batch_size": 8, "epochs": 3, **options}
    whole, _ = run_build(rows, architecture=architecture, **options)

    path, copy = str(tmp_path / "a"), str(tmp_path / "b")
    request = jobs.Build("cut", architecture, spooled(rows), jobs.TrainOptions(**options), checkpoint=path)  # type: ignore[arg-type]
    steps = build(request, workshop)
    first = len(whole.log) - 2
    while (step := next(steps)) is None or not isinstance(step, jobs.Progress) or not step.epoch or step.epoch.epoch != first:
        pass
    shutil.copy(path, copy)
    steps.close()
    assert not Path(path).exists()

    resumed, reports = run_build(rows, architecture=architecture, checkpoint=copy, **options)
    assert [report.epoch.epoch for report in reports if report.epoch] == [first + 1, first + 2]
    assert {report.phase for report in reports} - {"validating"} == {"loading", "training", "saving"}, "a short validation is not reported"
    digests = [workshop.store.manifest(built.artifact).weights_sha256 for built in (whole, resumed)]
    assert digests[0] == digests[1]
    strip = [[(entry.epoch, entry.loss, entry.validation_loss, entry.learning_rate) for entry in one.log] for one in (whole, resumed)]
    assert strip[0] == strip[1]
    assert resumed.metrics["validation_loss"] == whole.metrics["validation_loss"]
    assert not Path(copy).exists()


def test_one_that_cannot_be_read_is_as_good_as_none(run_build: RunBuild, pictures: tuple[Path, Rows], tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(b"PK\3\4 and no more")
    built, _ = run_build(pictures[1], checkpoint=str(path), pretrained=False, tune="full")
    assert len(built.log) == 1
    assert not path.exists()


def test_writing_takes_a_small_share_of_the_time(tmp_path: Path) -> None:
    now = [0.0]
    checkpoint = Checkpoint(str(tmp_path / "c"), lambda: now[0])

    def slow(number: int) -> dict[str, object]:
        now[0] += 2.0
        return {"number": number, "tensor": torch.ones(2)}

    checkpoint.save(lambda: slow(1))
    now[0] += 1.0
    checkpoint.save(lambda: slow(2))
    assert (checkpoint.load() or {})["number"] == 1
    now[0] += 2.0 / SHARE
    checkpoint.save(lambda: slow(3))
    assert (checkpoint.load() or {})["number"] == 3
    assert not Path(half_written(str(tmp_path / "c"))).exists()


def test_what_a_full_disk_has_taken_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(_: object, path: str) -> None:
        Path(path).write_bytes(bytes(1000))
        raise RuntimeError("unexpected pos")

    monkeypatch.setattr(torch, "save", fill)
    Checkpoint(str(tmp_path / "c")).save(lambda: {"number": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_does_not_end_the_training(tmp_path: Path) -> None:
    checkpoint = Checkpoint(str(tmp_path / "nowhere" / "c"))
    checkpoint.save(lambda: {"number": 1})
    assert checkpoint.load() is None
    checkpoint.discard()
