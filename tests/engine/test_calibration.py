"""Temperatures that make probabilities mean what they say."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tests.engine.conftest import Rows
from thanoproxy.engine.build import Workshop
from thanoproxy.engine.calibration import calibration_error, fit_temperature
from thanoproxy.engine.model import load_model
from thanoproxy.workers import jobs

RunBuild = Callable[..., tuple[jobs.Built, list[jobs.Progress]]]


def drawn(count: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels that are drawn from the probabilities they stand for: perfectly calibrated at 1."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, classes, generator=generator)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("factor", [0.1, 0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("classes", [2, 10])
def test_it_undoes_what_scaled_the_logits(factor: float, classes: int) -> None:
    logits, labels = drawn(40000, classes)
    temperature = fit_temperature(logits * factor, labels)
    assert temperature == pytest.approx(factor, rel=0.1)
    assert calibration_error(logits * factor, labels, temperature) < 0.02
    if factor != 1:
        assert calibration_error(logits * factor, labels, 1.0) > 0.05


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.floats(0.2, 5), st.integers(1, 200))
def test_no_other_temperature_is_better(seed: int, factor: float, count: int) -> None:
    logits, labels = drawn(count, 3, seed)

    def loss(temperature: float) -> float:
        fit = functional.cross_entropy(logits.double() * factor / temperature, labels, reduction="sum")
        return float(fit) + (math.log(temperature) / math.log(2)) ** 2 / 2

    best = fit_temperature(logits * factor, labels)
    assert all(loss(best) <= loss(float(other)) + 1e-6 for other in np.geomspace(0.02, 50, 40))


@pytest.mark.parametrize("margin", [1.0, 5.0, 50.0])
def test_a_few_images_that_are_all_right_prove_little(margin: float) -> None:
    """The least log loss would be that of a model that is always certain."""
    labels = torch.tensor([0, 1] * 4)
    assert 0.3 < fit_temperature(functional.one_hot(labels, 2) * margin, labels) <= 1.0001


def test_many_rows_are_looked_at_in_part() -> None:
    logits, labels = drawn(150_000, 10)
    assert fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.05)


def test_nothing_to_go_by() -> None:
    assert fit_temperature(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)) == 1.0
    assert fit_temperature(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64)) == pytest.approx(1.0, abs=1e-5)
    assert fit_temperature(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)) == pytest.approx(1.0, abs=1e-5)


def test_the_error_by_hand() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7]])
    # Two in the bin of 0.9, one of which is right; one in the bin of 0.7, which is.
    assert calibration_error(probabilities.log(), torch.tensor([0, 1, 1]), 1.0) == pytest.approx((abs(1.8 - 1) + abs(0.7 - 1)) / 3)


class TestBuild:
    @pytest.mark.parametrize("options", [{"tune": "head"}, {"tune": "full", "epochs": 2}], ids=["head", "full"])
    def test_it_is_measured_and_kept(
        self, run_build: RunBuild, workshop: Workshop, pictures: tuple[Path, Rows], options: dict[str, object]
    ) -> None:
        built, _ = run_build(pictures[1], **options)
        manifest = workshop.store.manifest(built.artifact)
        model = load_model(workshop.store, built.artifact, workshop.device)
        assert model.temperature == manifest.temperature != 1.0
        assert built.metrics["calibration_error"] is not None
        assert 0 <= built.metrics["calibration_error"] <= 1
        features = torch.randn(2, 1280)
        with torch.inference_mode():
            raw = model.architecture.head(model.network)(features)
            torch.testing.assert_close(model.scores(features), raw / manifest.temperature)

    def test_without_validation_it_is_1(self, run_build: RunBuild, workshop: Workshop, pictures: tuple[Path, Rows]) -> None:
        built, _ = run_build(pictures[1], validation_split=0.0)
        assert workshop.store.manifest(built.artifact).temperature == 1.0
        assert built.metrics["calibration_error"] is None

    def test_an_artifact_from_before_has_1(
        self, run_build: RunBuild, workshop: Workshop, pictures: tuple[Path, Rows], tmp_path: Path
    ) -> None:
        built, _ = run_build(pictures[1])
        folder = tmp_path / "models" / "manifests"
        plain = json.loads((folder / f"{built.artifact}.json").read_bytes())
        del plain["temperature"]
        older = json.dumps(plain).encode()
        identity = hashlib.sha256(older).hexdigest()
        (folder / f"{identity}.json").write_bytes(older)
        assert load_model(workshop.store, identity, workshop.device).temperature == 1.0
