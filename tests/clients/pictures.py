"""The statements that every client runs, and what must come of them."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["COLUMNS", "ENDLESS", "PREDICT", "RESULT", "Predicted", "build", "shows_an_epoch"]

Predicted = list[tuple[int, str, str, str]]

PREDICT = "PREDICT USING colours AS SELECT id, image, label FROM pictures ORDER BY id"
COLUMNS = ["id", "image", "label", "predicted"]
ENDLESS = "PREDICT USING colours AS SELECT image FROM pictures, generate_series(1, 1000000)"
RESULT = ["name", "version", "classes", "images", "validation_accuracy", "seconds"]


def build(name: str) -> str:
    """A BUILD MODEL of one epoch on the pictures, which takes about a second."""
    return f"BUILD MODEL {name} USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32, epochs=1) AS SELECT image, label FROM pictures"


def shows_an_epoch(notices: Iterable[str]) -> bool:
    """Whether the progress of `build` was told: one notice for its epoch."""
    return sum("epoch 1" in notice for notice in notices) == 1
