"""EVALUATE USING model [OPTIONS (…)] AS query: how good the model's predictions are for the images and labels of the query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from thanoproxy.catalog import store
from thanoproxy.catalog.records import ModelRecord
from thanoproxy.errors import FeatureNotSupported, NullNotAllowed
from thanoproxy.sql.clauses import Cursor, InnerQuery, ModelName
from thanoproxy.statements.columns import columns_of, image_column, label_column
from thanoproxy.statements.metrics import Tally
from thanoproxy.statements.options import IMAGE_COLUMN, LABEL_COLUMN, Chosen, Rule
from thanoproxy.statements.shapes import Added, Seal, Summarise, Summary
from thanoproxy.statements.using import BATCH_SIZE, CACHE, ON_ERROR, ModelAtWork, Using, read_clauses
from thanoproxy.wire.floats import numbers
from thanoproxy.wire.messages import Column
from thanoproxy.wire.values import FLOAT8, INT8, TEXT
from thanoproxy.workers import jobs

__all__ = ["LATER", "RULES", "parse"]

RULES = {**IMAGE_COLUMN, **LABEL_COLUMN, **BATCH_SIZE, **ON_ERROR, **CACHE, "per_class": Rule("bool"), "confusion_matrix": Rule("bool")}
LATER = frozenset[str]()

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

    def lookup(self) -> str:
        return store.used_model(self.model.name, self.model.version)

    @property
    def answers(self) -> tuple[Added, ...]:
        return _MATRIX if self.matrix else _PER_CLASS if self.per_class else _OVERALL

    def columns(self, inner: Sequence[Column], codec: str) -> tuple[Column, ...]:
        image_column(inner, codec, self.options)
        label_column(inner, codec, self.options)
        return columns_of(self.answers, codec)

    def open(self, found: Sequence[str | None] | None, inner: Sequence[Column], codec: str, seal: Seal) -> Summary:
        record = self.record(found, seal)
        assert found is not None, "there is a record"
        return Evaluation(self, record, found[1] or "", inner, codec)


class Evaluation(ModelAtWork, Summary):
    """Counts right and wrong predictions; an image that is NULL is left out, as an aggregate does, and a label that is NULL is an error."""

    verb = "Evaluate"
    vector = "probabilities"
    became_null = "count as NULL images"

    def __init__(self, statement: Evaluate, record: ModelRecord, role: str, inner: Sequence[Column], codec: str) -> None:
        super().__init__(statement, record, inner, codec)
        self.model, self.version, self.role = record.name, record.version, role
        self.label_column = label_column(inner, codec, statement.options)
        self._statement = statement
        self._tally = Tally(())

    def ready(self, classes: Sequence[str]) -> None:
        self._tally = Tally(classes)

    def take(self, label: bytes | None, reply: jobs.Predicted, index: int) -> None:
        if label is None:
            row = self._rows
            raise NullNotAllowed(f"the label of row {row + 1} is NULL", hint="Leave such rows out: … WHERE label IS NOT NULL.", row=row)
        readable = self.is_readable(reply, index)
        best, probabilities = reply.classes[index], reply.vectors[index]
        if best is not None and probabilities is not None:
            self._tally.add(label.decode(self._codec, "replace"), best[0], numbers(probabilities))
        elif readable or self._on_error == "null":
            self._tally.null_images += 1

    @property
    def accuracy(self) -> float | None:
        return self._tally.overall()[0].score

    def answer(self) -> Iterator[tuple[object, ...]]:
        if self._statement.matrix:
            return self._tally.matrix()
        if self._statement.per_class:
            return iter([*self._tally.overall(), *self._tally.by_class()])
        return (metric[1:] for metric in self._tally.overall())
