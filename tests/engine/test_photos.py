"""The main job on real photos: a head on MobileNetV2's ImageNet features, trained on 400 photos and tried on 400 others."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.engine.conftest import Rows
from thanoproxy.engine.build import Workshop, build
from thanoproxy.engine.inference import predict
from thanoproxy.engine.model import load_model
from thanoproxy.engine.pixels import read_cropped
from thanoproxy.images import open_sources
from thanoproxy.images.loader import ordered
from thanoproxy.models.weights import WeightsFinder
from thanoproxy.workers import jobs


def read_rows(test_data: Path, name: str) -> Rows:
    with open(test_data / "data" / name, newline="") as file:
        return [(row["image"], row["label"]) for row in csv.DictReader(file)]


@pytest.fixture
def photo_workshop(workshop: Workshop, test_data: Path) -> Workshop:
    return replace(
        workshop,
        sources=open_sources([str(test_data / "data" / "cat_and_dog")]),
        weights=WeightsFinder([str(test_data / "weights")]),
    )


def test_cats_and_dogs(photo_workshop: Workshop, test_data: Path, spooled: Callable[[Rows], str]) -> None:
    options = jobs.TrainOptions(tune="head", weights="mobilenet_v2_imagenet.safetensors")
    spool = spooled(read_rows(test_data, "cat_and_dog_train.csv"))
    steps = build(jobs.Build("pets", "MobileNet_V2", spool, options), photo_workshop)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            built: jobs.Built = end.value
            break
    assert built.classes == ["cat", "dog"]
    assert built.metrics["validation_accuracy"] is not None
    assert built.metrics["validation_accuracy"] >= 0.95

    model = load_model(photo_workshop.store, built.artifact, photo_workshop.device)
    rows = read_rows(test_data, "cat_and_dog_test.csv")
    loaded = ordered(
        photo_workshop.threads,
        rows,
        lambda row: read_cropped(photo_workshop.sources, row[0] or "", 0, model.preprocessing),
        ahead=64,
    )
    pixels = torch.stack([future.result() for future in loaded])
    found = [model.classes[ranking.classes[0]] for at in range(0, len(pixels), 16) for ranking in predict(model, pixels[at : at + 16], 1)]
    right = sum(one == label for one, (_, label) in zip(found, rows, strict=True))
    assert right / len(rows) >= 0.97
