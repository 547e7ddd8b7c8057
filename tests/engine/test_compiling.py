"""Compiled in the background and swapped in: the same features, other models' weights, and no harm where it fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from thanoproxy.catalog.artifacts import open_store
from thanoproxy.engine import compiling
from thanoproxy.engine.compiling import Compiler, difference
from thanoproxy.engine.device import choose
from thanoproxy.engine.inference import Part, Predictor
from thanoproxy.engine.model import Model, load_model, save_model
from thanoproxy.models.mobilenet import V2
from thanoproxy.models.preprocessing import Preprocessing, normalize

# As on CUDA: another number format than on CPUs, so without their rewrites.  Dynamo is the real one, and what it gives is run as it is.
DEVICE = replace(choose("cpu"), halves=True, predict_batch=8)
PIXELS = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
PREPROCESSING = Preprocessing(resize=32, crop=32)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Model]:
    """Two of one architecture with different backbones and different numbers of classes."""
    store, made = open_store(str(tmp_path_factory.mktemp("models"))), list[Model]()
    for seed in (1, 2):
        torch.manual_seed(seed)
        network, classes = V2.make(1 + seed, pretrained=False), [str(number) for number in range(1 + seed)]
        with torch.no_grad():
            network.train()(normalize(PIXELS, PREPROCESSING, torch.float32))
        saved = save_model(store, network, V2, classes=classes, preprocessing=PREPROCESSING, metrics={}, options={})
        made.append(load_model(store, saved.id, DEVICE))
    return made


@pytest.fixture
def compiler(request: pytest.FixtureRequest) -> Iterator[Compiler]:
    compiler = Compiler(DEVICE, backend="eager")
    yield compiler
    compiler.close()
    compiler._thread.join(60)


@torch.inference_mode()
def plain(model: Model, pixels: torch.Tensor) -> torch.Tensor:
    return model.features(normalize(pixels, model.preprocessing, model.dtype))


def until_compiled(compiler: Compiler, model: Model) -> torch.Tensor:
    with torch.inference_mode():
        for _ in range(600):
            if (found := compiler.features(model, PIXELS)) is not None:
                return found
            time.sleep(0.05)
    raise AssertionError("not in time")


def test_the_features_are_the_same_for_every_model_and_size(compiler: Compiler, models: list[Model]) -> None:
    first, second = models
    with torch.inference_mode():
        assert compiler.features(first, PIXELS) is None, "the first batch does not wait"
    assert difference(until_compiled(compiler, first), plain(first, PIXELS)) < 0.01
    [network] = compiler._networks.values()
    while not network.complete:
        with torch.inference_mode():
            compiler.features(second, PIXELS)  # which it does not take before it has been compared for all sizes
        time.sleep(0.05)
    with torch.inference_mode():
        for model, count in ((first, 8), (second, 7), (first, 4), (second, 3), (first, 1)):
            found = compiler.features(model, PIXELS[:count])
            assert found is not None
            assert found.shape == (count, 1280)
            assert difference(found, plain(model, PIXELS[:count])) < 0.01
    assert difference(plain(first, PIXELS), plain(second, PIXELS)) > 0.1, "the two do differ"
    assert len(compiler._networks) == 1, "they share one"


def test_what_was_given_stays_when_the_next_batch_is_computed(compiler: Compiler, models: list[Model]) -> None:
    first = until_compiled(compiler, models[0])
    kept = first.clone()
    with torch.inference_mode():
        compiler.features(models[0], PIXELS.flip(0))
    assert torch.equal(first, kept)


def test_a_batch_much_smaller_than_any_that_is_compiled_for_runs_as_it_is(models: list[Model]) -> None:
    compiler = Compiler(replace(DEVICE, predict_batch=64), backend="eager")
    with torch.inference_mode():
        assert compiler.features(models[0], PIXELS[:4]) is None
        assert not compiler._networks, "nor is it compiled for: 8 is the smallest size"
    compiler.close()


@pytest.mark.parametrize("what", ["wrong", "raises"])
def test_what_is_not_right_is_not_used(
    models: list[Model], what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(module: torch.nn.Module, **_: object) -> Callable[[torch.Tensor], torch.Tensor]:
        if what == "raises":
            raise RuntimeError("no compiler here")
        return lambda pixels: 2 * module(pixels)

    monkeypatch.setattr(torch, "compile", broken)
    compiler = Compiler(DEVICE)
    predictor = Predictor(DEVICE, compiler=compiler)
    before = predictor.launch([Part(models[0], 8, ("probabilities",))], list(PIXELS)).collect()
    compiler.close()
    compiler._thread.join(60)
    assert predictor.launch([Part(models[0], 8, ("probabilities",))], list(PIXELS)).collect() == before
    assert ["cannot be compiled" in record.message for record in caplog.records] == [True]


def test_what_fails_later_is_used_no_more(compiler: Compiler, models: list[Model], caplog: pytest.LogCaptureFixture) -> None:
    until_compiled(compiler, models[0])
    [network] = compiler._networks.values()

    def fails(pixels: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("it did work before")

    network.recorded = dict.fromkeys(network.recorded, fails)
    predictor = Predictor(DEVICE, compiler=compiler)
    assert len(predictor.launch([Part(models[0], 8, ("probabilities",))], list(PIXELS)).collect()) == 8
    with torch.inference_mode():
        assert compiler.features(models[0], PIXELS) is None
    assert "used no more" in caplog.text


def test_it_waits_while_it_would_disturb(models: list[Model], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "RETRY", 0.01)
    free = threading.Event()
    compiler = Compiler(DEVICE, may_begin=free.is_set, backend="eager")
    with torch.inference_mode():
        compiler.features(models[0], PIXELS)
        time.sleep(0.5)
        assert not next(iter(compiler._networks.values())).weights
    free.set()
    until_compiled(compiler, models[0])
    compiler.close()
    compiler._thread.join(60)


def test_no_more_than_a_few_are_kept(models: list[Model], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "MOST", 0)
    compiler = Compiler(DEVICE, backend="eager")
    with torch.inference_mode():
        assert compiler.features(models[0], PIXELS) is None
    assert not compiler._networks
    compiler.close()
