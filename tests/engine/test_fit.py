"""FIT: a training that begins with a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from tests.engine.conftest import Rows
from tests.engine.test_build import accuracy
from thanoproxy.engine.beginning import begin
from thanoproxy.engine.build import Workshop
from thanoproxy.errors import ArtifactCorrupt
from thanoproxy.models.mobilenet import V2
from thanoproxy.workers import jobs

RunBuild = Callable[..., tuple[jobs.Built, list[jobs.Progress]]]


@pytest.fixture
def base(run_build: RunBuild, pictures: tuple[Path, Rows]) -> jobs.Built:
    """A grey model at 48 pixels of labels `cold` and `warm`."""
    rows = [(image, {"red": "warm", "blue": "cold"}[label]) for image, label in pictures[1]]
    return run_build(rows, input_size=48, color="GRAY")[0]


def tensors(workshop: Workshop, artifact: str) -> dict[str, torch.Tensor]:
    return load(workshop.store.weights(artifact, workshop.store.manifest(artifact)))


def test_known_labels_keep_their_rows_of_the_head_and_new_ones_begin_at_zero(workshop: Workshop, base: jobs.Built) -> None:
    request = jobs.Build("fit", "MobileNet_V2", "", jobs.TrainOptions(), base.artifact)
    beginning = begin(request, request.options, workshop.weights, workshop.store)
    network = beginning.network(["cold", "new", "warm"], V2.fine_tune, seed=0)
    before, after = tensors(workshop, base.artifact), network.state_dict()
    for name, tensor in before.items():
        if not name.startswith(V2.head_name):
            assert torch.equal(after[name], tensor), name
    assert torch.equal(V2.head(network).weight[[0, 2]], before["classifier.1.weight"])
    assert torch.equal(V2.head(network).bias[[0, 2]], before["classifier.1.bias"])
    assert not V2.head(network).weight[1].any()


def test_new_labels_are_learnt_beside_the_known_ones(
    run_build: RunBuild, workshop: Workshop, base: jobs.Built, pictures: tuple[Path, Rows]
) -> None:
    built, _ = run_build(pictures[1], start=base.artifact, epochs=2)
    assert built.classes == ["blue", "cold", "red", "warm"]
    assert accuracy(built, workshop, pictures[1]) >= 0.9
    assert (built.options["input_size"], built.options["color"]) == (48, "GRAY")
    assert "weights" not in built.options
    manifest = workshop.store.manifest(built.artifact)
    assert manifest.preprocessing == workshop.store.manifest(base.artifact).preprocessing


def test_what_a_label_without_new_images_means_is_not_forgotten(
    run_build: RunBuild, workshop: Workshop, pictures: tuple[Path, Rows]
) -> None:
    before, _ = run_build(pictures[1])
    odd: Rows = [(image, "other" if label == "red" else label) for image, label in pictures[1]]
    after, _ = run_build(odd, start=before.artifact)
    assert after.classes == ["blue", "other", "red"]
    known = tensors(workshop, before.artifact)["classifier.1.weight"][1]
    kept = tensors(workshop, after.artifact)["classifier.1.weight"][2]
    assert torch.cosine_similarity(known, kept, dim=0) > 0.5


def test_all_of_the_network_goes_on_from_the_model(
    run_build: RunBuild, workshop: Workshop, base: jobs.Built, pictures: tuple[Path, Rows]
) -> None:
    rows = [(image, {"red": "warm", "blue": "cold"}[label]) for image, label in pictures[1]]
    built, _ = run_build(rows, start=base.artifact, tune="full", learning_rate=1e-9, augment=False)
    assert built.options["tune"] == "full"
    before, after = tensors(workshop, base.artifact), tensors(workshop, built.artifact)
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in before)
    assert built.metrics["validation_accuracy"] == base.metrics["validation_accuracy"]


def test_a_model_that_is_gone(run_build: RunBuild, workshop: Workshop, base: jobs.Built, pictures: tuple[Path, Rows]) -> None:
    workshop.store.delete(base.artifact)
    with pytest.raises(ArtifactCorrupt, match="is missing"):
        run_build(pictures[1], start=base.artifact)
