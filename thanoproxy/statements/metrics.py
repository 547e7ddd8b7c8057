"""How good predictions are, from counts that are kept while they come: what EVALUATE answers with.

With `right`, `labelled` and `predicted` as the numbers of images of a class that are predicted right, labelled so, and predicted so:

    accuracy      right of all classes / images
    precision     right / predicted
    recall        right / labelled
    f1            2 right / (labelled + predicted)
    log_loss      mean over the images of -ln(probability that the model gives to the label)
    calibration_error
                  mean over the images of |mean confidence - share of right ones| in the bin that the confidence is in

The `macro_` ones are means over the classes that occur, as a label or as a prediction.  What would be divided by 0 is 0.  A label that
the model does not know is a class as any other: it is never predicted, so each of its images is wrong, and its probability is 0.
Probabilities count as at least 2^-52, so that the loss stays finite.  All of this is as in scikit-learn, which has no calibration error:
that is the usual one with 15 bins of the same width (Guo et al. 2017, arXiv:1706.04599), each with its upper end.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from thanoproxy.errors import ProgramLimitExceeded

__all__ = ["Metric", "Tally"]

_LEAST = 2.0**-52
_BINS = 15
_MOST_PAIRS = 1 << 20
_MOST_TEXT = 16 << 20


class Metric(NamedTuple):
    """A number; `of` is the class that it is about, None where it is about all.  There is no `score` where there are no images."""

    of: str | None
    metric: str
    score: float | None


class Tally:
    """Counts of the pairs (label, prediction) that occur, so memory depends on the classes alone."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._names = list(classes)
        self._numbers = {name: number for number, name in enumerate(classes)}
        self._known = len(classes)
        self._pairs = Counter[tuple[int, int]]()
        self._text = 0
        self._loss = 0.0
        self._surplus = [0.0] * _BINS
        self.images = 0
        self.null_images = 0

    def add(self, label: str, predicted: int, probabilities: Sequence[float]) -> None:
        """An image with this label and the model's answer: the best class, and the probability of each.

        Raises `ProgramLimitExceeded` where there are too many labels to count.
        """
        number = self._number(label)
        self._pairs[number, predicted] += 1
        self._loss -= math.log(max(probabilities[number], _LEAST) if number < self._known else _LEAST)
        confidence = probabilities[predicted]
        self._surplus[min(max(math.ceil(confidence * _BINS), 1), _BINS) - 1] += confidence - (number == predicted)
        self.images += 1
        if len(self._pairs) > _MOST_PAIRS or self._text > _MOST_TEXT:
            raise ProgramLimitExceeded("the images have too many different labels to be counted", hint="Is label_col the right column?")

    def overall(self) -> list[Metric]:
        """In the order of the answer."""
        classes = self._classes()
        scores = {
            "accuracy": _ratio(sum(one.right for one in classes), self.images),
            "macro_precision": _mean([one.precision for one in classes]),
            "macro_recall": _mean([one.recall for one in classes]),
            "macro_f1": _mean([one.f1 for one in classes]),
            "log_loss": _ratio(self._loss, self.images),
            "calibration_error": _ratio(math.fsum(map(abs, self._surplus)), self.images),
        }
        counts = {"images": self.images, "null_images": self.null_images}
        known = scores if self.images else dict.fromkeys(scores)
        return [Metric(None, metric, score) for metric, score in {**known, **counts}.items()]

    def by_class(self) -> Iterator[Metric]:
        """Those of each class that occurs, in the order of their names."""
        for one in self._classes():
            scores = {"precision": one.precision, "recall": one.recall, "f1": one.f1, "images": one.labelled}
            yield from (Metric(one.name, metric, score) for metric, score in scores.items())

    def matrix(self) -> Iterator[tuple[str, str, int]]:
        """Label, prediction and how often, for every pair of the model's classes and the labels that occur, in the order of their names.

        Raises `ProgramLimitExceeded`.
        """
        size = len(self._names)
        if size * size > _MOST_PAIRS:
            raise ProgramLimitExceeded(
                f"a confusion matrix of {size} classes is too large",
                hint="SELECT label, predicted, count(*) FROM (PREDICT …) GROUP BY 1, 2 gives the pairs that occur.",
            )
        order = sorted(range(size), key=self._names.__getitem__)
        return ((self._names[a], self._names[b], self._pairs[a, b]) for a in order for b in order)

    def _number(self, label: str) -> int:
        number = self._numbers.get(label)
        if number is None:
            number = self._numbers[label] = len(self._names)
            self._names.append(label)
            self._text += len(label)
        return number

    def _classes(self) -> list[_Class]:
        labelled, predicted, right = Counter[int](), Counter[int](), Counter[int]()
        for (a, b), count in self._pairs.items():
            labelled[a] += count
            predicted[b] += count
            right[a] += count if a == b else 0
        occurring = sorted(labelled.keys() | predicted.keys(), key=self._names.__getitem__)
        return [_Class(self._names[number], right[number], labelled[number], predicted[number]) for number in occurring]


class _Class(NamedTuple):
    name: str
    right: int
    labelled: int
    predicted: int

    @property
    def precision(self) -> float:
        return _ratio(self.right, self.predicted)

    @property
    def recall(self) -> float:
        return _ratio(self.right, self.labelled)

    @property
    def f1(self) -> float:
        return _ratio(2 * self.right, self.labelled + self.predicted)


def _ratio(part: float, whole: int) -> float:
    return part / whole if whole else 0.0


def _mean(values: Sequence[float]) -> float:
    return _ratio(math.fsum(values), len(values))
