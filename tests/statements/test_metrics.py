"""The metrics of EVALUATE are scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from thanoproxy.errors import ProgramLimitExceeded
from thanoproxy.statements import metrics
from thanoproxy.statements.metrics import Metric, Tally

CLASSES = ["dog", "cat", "ant", "Bee"]
"""Not in the order of their names, as a model's may be."""


@st.composite
def images(draw: st.DrawFn) -> list[tuple[str, list[float]]]:
    """Labels, some of which the model does not know, and what it makes of each."""
    labels = st.sampled_from([*CLASSES, "newt", "élan"])
    scores = st.lists(st.floats(0, 30), min_size=len(CLASSES), max_size=len(CLASSES))
    return [(draw(labels), _softmax(draw(scores))) for _ in range(draw(st.integers(1, 60)))]


def _softmax(scores: list[float]) -> list[float]:
    powers = np.exp(np.array(scores) - max(scores))
    return list(powers / powers.sum())


def tally_of(found: list[tuple[str, list[float]]]) -> Tally:
    tally = Tally(CLASSES)
    for label, probabilities in found:
        tally.add(label, int(np.argmax(probabilities)), probabilities)
    return tally


def expected_calibration_error(found: list[tuple[str, list[float]]]) -> float:
    """By the definition: the bins one by one."""
    confidence = np.array([max(probabilities) for _, probabilities in found])
    right = np.array([CLASSES[int(np.argmax(probabilities))] == label for label, probabilities in found])
    error = 0.0
    for low in range(15):
        inside = (confidence * 15 > low) & (confidence * 15 <= low + 1)
        if inside.any():
            error += inside.sum() / len(found) * abs(confidence[inside].mean() - right[inside].mean())
    return float(error)


@settings(deadline=None)
@given(images())
def test_overall(found: list[tuple[str, list[float]]]) -> None:
    labels = [label for label, _ in found]
    predicted = [CLASSES[int(np.argmax(probabilities))] for _, probabilities in found]
    averages = {"average": "macro", "zero_division": 0}
    every = sorted({*CLASSES, *labels})
    columns = [[row[CLASSES.index(name)] if name in CLASSES else 0.0 for name in every] for _, row in found]
    wanted = {
        "accuracy": sklearn.accuracy_score(labels, predicted),
        "macro_precision": sklearn.precision_score(labels, predicted, **averages),
        "macro_recall": sklearn.recall_score(labels, predicted, **averages),
        "macro_f1": sklearn.f1_score(labels, predicted, **averages),
        "log_loss": sklearn.log_loss(labels, columns, labels=every),
        "calibration_error": expected_calibration_error(found),
        "images": len(found),
        "null_images": 0,
    }
    overall = tally_of(found).overall()
    assert [metric.metric for metric in overall] == list(wanted)
    assert [metric.score for metric in overall] == pytest.approx(list(wanted.values()), rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(images())
def test_by_class_and_matrix(found: list[tuple[str, list[float]]]) -> None:
    labels = [label for label, _ in found]
    predicted = [CLASSES[int(np.argmax(probabilities))] for _, probabilities in found]
    occurring = sorted({*labels, *predicted})
    scores = sklearn.precision_recall_fscore_support(labels, predicted, labels=occurring, zero_division=0)
    tally = tally_of(found)
    for number, (name, metric, score) in enumerate(tally.by_class()):
        of, kind = divmod(number, 4)
        assert (name, metric) == (occurring[of], ("precision", "recall", "f1", "images")[kind])
        assert score == pytest.approx(scores[kind][of])
    every = sorted({*CLASSES, *labels})
    matrix = sklearn.confusion_matrix(labels, predicted, labels=every)
    assert list(tally.matrix()) == [(a, b, matrix[i, j]) for i, a in enumerate(every) for j, b in enumerate(every)]


def test_no_images_no_scores() -> None:
    tally = Tally(["a", "b"])
    tally.null_images = 3
    assert tally.overall()[-2:] == [Metric(None, "images", 0), Metric(None, "null_images", 3)]
    assert {metric.score for metric in tally.overall()[:-2]} == {None}
    assert list(tally.by_class()) == []
    assert list(tally.matrix()) == [("a", "a", 0), ("a", "b", 0), ("b", "a", 0), ("b", "b", 0)]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_MOST_PAIRS", 10)
    tally = Tally(["a", "b", "c"])
    for number in range(10):
        tally.add(f"label {number}", 0, [1, 0, 0])
    with pytest.raises(ProgramLimitExceeded, match="too many different labels"):
        tally.add("one more", 0, [1, 0, 0])
    with pytest.raises(ProgramLimitExceeded, match="confusion matrix of 14 classes"):
        tally.matrix()
    monkeypatch.setattr(metrics, "_MOST_TEXT", 100)
    with pytest.raises(ProgramLimitExceeded):
        Tally(["a"]).add("x" * 101, 0, [1])
