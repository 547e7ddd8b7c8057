"""Training a whole network: the rates, the steps, and out of memory."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from tests.engine.conftest import Rows
from thanoproxy.engine.dataset import Dataset
from thanoproxy.engine.device import Device
from thanoproxy.engine.interrupting import GoOn
from thanoproxy.engine.progress import Meter
from thanoproxy.engine.shares import Share
from thanoproxy.engine.training import Trained, Trainer, rate_at
from thanoproxy.errors import DeviceOutOfMemory
from thanoproxy.images import open_sources
from thanoproxy.images.loader import LoaderThreads
from thanoproxy.models.mobilenet import V2
from thanoproxy.models.preprocessing import Preprocessing
from thanoproxy.workers.spool import Spool

Result = TypeVar("Result")
MakeTrainer = Callable[..., Trainer]


def finish(steps: Generator[object, None, Result]) -> tuple[Result, int]:
    """Run to the end; the result, and how many batch boundaries there were."""
    boundaries = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, boundaries
        boundaries += 1


@pytest.fixture
def make_trainer(pictures: tuple[Path, Rows], spooled: Callable[[Rows], str], threads: LoaderThreads, device: Device) -> MakeTrainer:
    def make(*, fresh: bool = True, go_on: GoOn | None = None, **recipe: Any) -> Trainer:
        preprocessing = Preprocessing(resize=32, crop=32)
        dataset = Dataset(Spool(spooled(pictures[1])), open_sources([str(pictures[0])]), threads, preprocessing, pixel_budget=1 << 20)
        list(dataset.scan(16))
        torch.manual_seed(0)
        network = V2.make(2, pretrained=not fresh)
        settings = V2.from_scratch.with_options(**{"learning_rate": None, "batch_size": 8, **recipe})
        return Trainer(network, V2, settings, dataset, dataset.split(0.2, 0), device, fresh=fresh, go_on=go_on)

    return make


def train(trainer: Trainer, **options: Any) -> tuple[Trained, int]:
    return finish(trainer.run(Meter("job"), **{"epochs": 1, "seed": 0, "augment": False, **options}))


def test_the_rate_rises_then_falls_along_a_cosine() -> None:
    rates = [rate_at(step, 100, 0.2) for step in range(100)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[19] == rates[20] == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert rates[99] < 0.01
    assert rate_at(0, 1, 0.05) == 1.0


def test_it_learns_and_yields_at_every_batch(make_trainer: MakeTrainer) -> None:
    trained, boundaries = train(make_trainer(learning_rate=2e-3), epochs=5)
    assert trained.scores is not None
    assert trained.scores.accuracy >= 0.8
    assert [entry.epoch for entry in trained.log] == [1, 2, 3, 4, 5]
    assert all(entry.validation_accuracy is not None for entry in trained.log)
    assert boundaries >= 5 * 4 + 5


def test_the_same_seed_gives_the_same_weights(make_trainer: MakeTrainer) -> None:
    one, two = (train(make_trainer(), augment=True)[0].state for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_pretrained_batch_norm_keeps_its_statistics(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(fresh=False)
    before = trainer.network.state_dict()["features.0.1.running_mean"].clone()
    trained, _ = train(trainer)
    assert torch.equal(trained.state["features.0.1.running_mean"], before)
    assert not torch.equal(trained.state["features.0.0.weight"], V2.make(2, pretrained=True).state_dict()["features.0.0.weight"])


def test_parts_of_a_batch_add_up_to_the_same_step(make_trainer: MakeTrainer) -> None:
    whole, parts = make_trainer(fresh=False, batch_size=32), make_trainer(fresh=False, batch_size=32)
    parts.micro_batch = 5
    [batch] = list(whole.dataset.batches([list(range(32))], None))
    share = Share.all_of(batch)
    boundaries = [finish(trainer._gradients(share, 0, Meter("job")))[1] for trainer in (whole, parts)]
    assert boundaries == [0, 6], "somebody else may use the device between two parts"
    for one, other in zip(whole.network.parameters(), parts.network.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)


def test_out_of_memory_halves_the_part_and_repeats_the_step(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(fresh=False, batch_size=32)
    room = 9
    gradients = trainer._images

    def images(pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return gradients(pixels)

    trainer._images = images  # type: ignore[method-assign]
    trained, _ = train(trainer)
    assert trainer.micro_batch == 8
    assert len(trained.log) == 1


def test_when_not_one_image_fits_the_error_says_so(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()

    def images(pixels: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    trainer._images = images  # type: ignore[method-assign]
    with pytest.raises(DeviceOutOfMemory, match="not even one image"):
        train(trainer)


def test_rates_fall_with_the_distance_from_the_head(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.recipe = V2.fine_tune
    groups = trainer._optimizer().param_groups
    by_size = {group["lr"] for group in groups}
    assert max(by_size) == pytest.approx(V2.fine_tune.learning_rate * V2.fine_tune.head_factor)
    assert min(by_size) == pytest.approx(V2.fine_tune.learning_rate * V2.fine_tune.layer_decay**18)
    assert {group["weight_decay"] for group in groups} == {0.0, V2.fine_tune.weight_decay}
    assert sum(len(group["params"]) for group in groups) == len(list(trainer.network.parameters()))
