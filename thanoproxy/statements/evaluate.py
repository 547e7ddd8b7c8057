"""EVALUATE USING model [OPTIONS (…)] AS query: how good the model's predictions are for the images and labels of the query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from thanoproxy.catalog.records import ModelRecord
from thanoproxy.errors import FeatureNotSupported, NullNotAllowed
from thanoproxy.sql.clauses import Cursor, InnerQuery, ModelName
from thanoproxy.statements.columns import columns_of, image_column, label_column
from thanoproxy.statements.metrics import Tally
from thanoproxy.statements.options import IMAGE_COLUMN, LABEL_COLUMN, Chosen, Rule
from thanoproxy.statements.shapes import Added, Seal, Summarise, Summary
from thanoproxy.statements.using import BATCH_SIZE, CACHE, ModelAtWork, Using, check_row, read_clauses
from thanoproxy.wire.floats import numbers
from thanoproxy.wire.messages import Column
from thanoproxy.wire.values import FLOAT8, INT8, TEXT
from thanoproxy.workers import jobs

__all__ = ["LATER", "RULES", "parse"]

RULES = {**IMAGE_COLUMN, **LABEL_COLUMN, **BATCH_SIZE, **CACHE, "per_class": Rule("bool"), "confusion_matrix": Rule("bool")}
LATER = frozenset({"on_error"})

_OVERALL = (Added("metric", TEXT), Added("score", FLOAT8))
_PER_CLASS = (Added("class", TEXT), *_OVERALL)
_MATRIX = (Added("label", TEXT), Added("predicted", TEXT), Added("count", INT8))


def parse(cursor: Cursor) -> Summarise:
    """Behind EVALUATE."""
    return Evaluate(*read_clauses(cursor, "EVALUATE", RULES, LATER))


class Evaluate(Using, Summarise):
    """An EVALUATE as written."""

    def __init__(self, model: ModelName, options: Chosen, inner: InnerQuery) -> None:
        super().__init__(model, options, inner)
        self.matrix, self.per_class = (bool(options.get(name)) for name in ("confusion_matrix", "per_class"))
        if self.matrix and self.per_class:
            raise FeatureNotSupported(
                'options "confusion_matrix" and "per_class" exclude each other', position=options.position("confusion_matrix")
            )

    @property
    def answers(self) -> tuple[Added, ...]:
        return _MATRIX if self.matrix else _PER_CLASS if self.per_class else _OVERALL

    def columns(self, inner: Sequence[Column], codec: str) -> tuple[Column, ...]:
        image_column(inner, codec, self.options)
        label_column(inner, codec, self.options)
        return columns_of(self.answers, codec)

    def open(self, found: Sequence[str | None] | None, inner: Sequence[Column], codec: str, seal: Seal) -> Summary:
        return Evaluation(self, self.record(found, seal), inner, codec)


class Evaluation(ModelAtWork, Summary):
    """Counts right and wrong predictions; an image that is NULL is left out, as an aggregate does, and a label that is NULL is an error."""

    verb = "Evaluate"
    vector = "probabilities"

    def __init__(self, statement: Evaluate, record: ModelRecord, inner: Sequence[Column], codec: str) -> None:
        super().__init__(statement, record, inner, codec)
        self.label_column = label_column(inner, codec, statement.options)
        self._statement = statement
        self._tally = Tally(())
        self._rows = 0

    def ready(self, classes: Sequence[str]) -> None:
        self._tally = Tally(classes)

    def take(self, label: bytes | None, reply: jobs.Predicted, index: int) -> None:
        row, self._rows = self._rows, self._rows + 1
        if label is None:
            raise NullNotAllowed(f"the label of row {row + 1} is NULL", hint="Leave such rows out: … WHERE label IS NOT NULL.", row=row)
        check_row(reply, index)
        best, probabilities = reply.classes[index], reply.vectors[index]
        if best is None or probabilities is None:
            self._tally.null_images += 1
        else:
            self._tally.add(label.decode(self._codec, "replace"), best[0], numbers(probabilities))

    def answer(self) -> Iterator[tuple[object, ...]]:
        if self._statement.matrix:
            return self._tally.matrix()
        if self._statement.per_class:
            return iter([*self._tally.overall(), *self._tally.by_class()])
        return (metric[1:] for metric in self._tally.overall())
