"""Prediction of a batch, and models that stay in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.engine.conftest import Rows
from thanoproxy.catalog.artifacts import ArtifactStore
from thanoproxy.engine import inference
from thanoproxy.engine.build import Workshop
from thanoproxy.engine.device import Device
from thanoproxy.engine.model import Model, load_model
from thanoproxy.engine.residency import Residency
from thanoproxy.errors import ArtifactCorrupt, DeviceOutOfMemory
from thanoproxy.models.preprocessing import normalize
from thanoproxy.workers import jobs

RunBuild = Callable[..., tuple[jobs.Built, list[jobs.Progress]]]
VECTORS: tuple[jobs.Vector, ...] = ("features", "probabilities")
PIXELS = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def artifact(run_build: RunBuild, pictures: tuple[Path, Rows]) -> str:
    return run_build(pictures[1])[0].artifact


@pytest.fixture
def model(artifact: str, workshop: Workshop) -> Model:
    return load_model(workshop.store, artifact, workshop.device)


def vectors_of(model: Model, pixels: torch.Tensor, wanted: Collection[jobs.Vector]) -> list[inference.Vectors]:
    return inference.Predictor(model.device).launch([inference.Part(model, len(pixels), wanted)], list(pixels)).collect()


def test_classes_come_best_first_with_their_probabilities(model: Model) -> None:
    rankings = inference.predict(model, PIXELS, top_k=5)
    assert len(rankings) == 8
    for ranking in rankings:
        assert sorted(ranking.classes) == [0, 1], "two classes are all there are"
        assert sum(ranking.scores) == pytest.approx(1.0)
        assert ranking.scores[0] >= ranking.scores[1]
    assert [len(ranking.classes) for ranking in inference.predict(model, PIXELS, top_k=1)] == [1] * 8


def test_vectors_are_the_input_of_the_last_layer_and_the_probability_of_each_class(model: Model) -> None:
    for ranking, vectors in zip(inference.predict(model, PIXELS, top_k=2), vectors_of(model, PIXELS, VECTORS), strict=True):
        features, probabilities = (torch.frombuffer(bytearray(vectors[of]), dtype=torch.float32) for of in VECTORS)
        assert features.shape == (1280,)
        with torch.inference_mode():
            torch.testing.assert_close(model.scores(features[None]).softmax(1)[0], probabilities)
        assert [float(probabilities[index]) for index in ranking.classes] == list(ranking.scores)
    assert vectors_of(model, PIXELS, ()) == [{}] * 8
    assert [vectors.keys() for vectors in vectors_of(model, PIXELS, {"features"})] == [{"features"}] * 8
    assert inference.predict(model, PIXELS, top_k=0)[0].classes == ()


def test_a_batch_too_large_for_the_device_is_halved(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, sizes, original = inference.predict(model, PIXELS, 1), [], normalize

    def with_room_for_three(pixels: torch.Tensor, *rest: object) -> torch.Tensor:
        if len(pixels) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(pixels))
        return original(pixels, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(inference, "normalize", with_room_for_three)
    assert [ranking.classes for ranking in inference.predict(model, PIXELS, 1)] == [ranking.classes for ranking in wanted]
    assert sizes == [2, 2, 2, 2]


def test_not_even_one_image(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(inference, "normalize", no_room)
    with pytest.raises(DeviceOutOfMemory):
        inference.predict(model, PIXELS, 1)


def test_weights_that_do_not_fit_their_architecture_are_a_corrupt_artifact(workshop: Workshop) -> None:
    saved = workshop.store.save(
        b"\x02\0\0\0\0\0\0\0{}",
        architecture="MobileNet_V2",
        classes=["a", "b"],
        preprocessing={"resize": 32, "crop": 32},
        metrics={},
        options={},
        software={},
    )
    with pytest.raises(ArtifactCorrupt, match="does not fit MobileNet_V2"):
        load_model(workshop.store, saved.id, workshop.device)


class Counting:
    """Loads for a residency, counted; every model is said to have 100 bytes and a backbone of its own."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def __call__(self, store: ArtifactStore, identity: str, device: Device) -> Model:
        self.loaded.append(identity)
        model = load_model(store, identity, device)
        return replace(model, size_bytes=100, backbone=identity)


def test_a_model_is_loaded_once_and_the_least_recently_used_goes_first(
    run_build: RunBuild, workshop: Workshop, pictures: tuple[Path, Rows]
) -> None:
    a, b, c = (run_build(pictures[1], seed=seed)[0].artifact for seed in (1, 2, 3))
    load = Counting()
    residency = Residency(workshop.store, workshop.device, 250, load)
    for identity in (a, b, a, a, c):
        residency.get(identity)
    assert load.loaded == [a, b, c]
    assert residency.loaded(b) is None
    assert residency.loaded(a) is not None
    residency.get(b)
    assert load.loaded == [a, b, c, b]


def test_two_that_want_it_at_once_share_a_load(artifact: str, workshop: Workshop) -> None:
    load = Counting()
    residency = Residency(workshop.store, workshop.device, 1 << 30, load)
    threads = [threading.Thread(target=residency.get, args=(artifact,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert load.loaded == [artifact]


def test_a_change_to_the_files_is_noticed_when_asked_to_verify(artifact: str, workshop: Workshop, tmp_path: Path) -> None:
    residency = Residency(workshop.store, workshop.device, 1 << 30)
    model = residency.get(artifact)
    assert residency.get(artifact, verify=True) is model
    path = next((tmp_path / "models" / "weights").iterdir())
    path.write_bytes(b"damaged")
    assert residency.get(artifact) is model, "a running PREDICT keeps what it has"
    with pytest.raises(ArtifactCorrupt):
        residency.get(artifact, verify=True)
    with pytest.raises(ArtifactCorrupt):
        residency.get(artifact)


def test_loading_draws_no_random_numbers(artifact: str, workshop: Workshop) -> None:
    """A training on the device's thread counts on them."""
    before = torch.get_rng_state()
    model = load_model(workshop.store, artifact, workshop.device)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(tensor.is_meta for tensor in model.network.state_dict().values())


def test_models_whose_backbone_is_the_same_share_it(run_build: RunBuild, workshop: Workshop, pictures: tuple[Path, Rows]) -> None:
    swapped = [(image, {"red": "warm", "blue": "cold"}.get(str(label))) for image, label in pictures[1]]
    first, second = (run_build(rows, tune="head")[0].artifact for rows in (pictures[1], swapped))
    alone = [load_model(workshop.store, identity, workshop.device) for identity in (first, second)]
    residency = Residency(workshop.store, workshop.device, alone[0].size_bytes + 2 * alone[0].head_bytes)
    one, two = residency.get(first), residency.get(second)
    assert one.network is two.network
    assert one.head is not two.head
    assert (one.classes, two.classes) == (["blue", "red"], ["cold", "warm"])
    assert residency.loaded(first) is one, "the second has cost no more than its head"
    parts = [inference.Part(one, 5, {"probabilities"}), inference.Part(two, 3, VECTORS)]
    together = inference.Predictor(workshop.device).launch(parts, list(PIXELS)).collect()
    wanted = vectors_of(alone[0], PIXELS[:5], {"probabilities"}) + vectors_of(alone[1], PIXELS[5:], VECTORS)
    for found, apart in zip(together, wanted, strict=True):
        assert found.keys() == apart.keys()
        for vector in found:
            values = (torch.frombuffer(bytearray(of[vector]), dtype=torch.float32) for of in (found, apart))
            torch.testing.assert_close(*values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"input_size": 40}, {"tune": "full", "pretrained": False}, {"color": "GRAY"}])
def test_another_network_or_other_pixels_are_another_backbone(
    run_build: RunBuild, workshop: Workshop, pictures: tuple[Path, Rows], options: dict[str, object]
) -> None:
    models = [load_model(workshop.store, run_build(pictures[1], **more)[0].artifact, workshop.device) for more in ({}, options)]
    assert len({model.backbone for model in models}) == 2
