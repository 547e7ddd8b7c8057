"""PREDICT USING model [OPTIONS (…)] AS query: every row of the query, with the label the model gives its image."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from decimal import Decimal

from thanoproxy.catalog.records import ModelRecord
from thanoproxy.sql.clauses import Cursor
from thanoproxy.statements.options import Rule
from thanoproxy.statements.shapes import Added, Decorate, Decoration, Seal
from thanoproxy.statements.using import COLUMN_RULES, AddColumns, ColumnsAtWork, read_clauses
from thanoproxy.wire.floats import numbers
from thanoproxy.wire.messages import Column, format_code
from thanoproxy.wire.values import (
    FLOAT8,
    FLOAT8_ARRAY,
    JSONB,
    TEXT,
    TEXT_ARRAY,
    array_text,
    encode_value,
    float8_array,
    jsonb,
    text_array,
)
from thanoproxy.workers import jobs

__all__ = ["LATER", "RULES", "parse"]

RULES = {
    **COLUMN_RULES,
    "top_k": Rule("int", least=1, most=65536),
    "score": Rule("bool"),
    "probabilities": Rule("bool"),
    "threshold": Rule("float", least=0, most=1),
}
LATER = frozenset[str]()


def parse(cursor: Cursor) -> Decorate:
    """Behind PREDICT."""
    return Predict(*read_clauses(cursor, "PREDICT", RULES, LATER))


class Predict(AddColumns):
    """A PREDICT as written.  With `top_k`, labels and scores are arrays, and there are scores unless `score` says otherwise."""

    noun = "prediction"

    @property
    def column(self) -> Added:
        return Added("predicted", TEXT if self.top_k is None else TEXT_ARRAY)

    @property
    def top_k(self) -> int | None:
        top_k: int | None = self.options.get("top_k")
        return top_k

    @property
    def more(self) -> tuple[Added, ...]:
        scores = (
            [Added("score", FLOAT8 if self.top_k is None else FLOAT8_ARRAY)] if self.options.get("score", self.top_k is not None) else []
        )
        return (*scores, *([Added("probabilities", JSONB)] if self.options.get("probabilities") else []))

    def open(self, found: Sequence[str | None] | None, inner: Sequence[Column], codec: str, seal: Seal) -> Decoration:
        return Prediction(self, self.record(found, seal), inner, codec)


class Prediction(ColumnsAtWork):
    """Adds the labels of the best classes and what else was asked for; text has the same bytes in both formats."""

    verb = "Predict"

    def __init__(self, statement: Predict, record: ModelRecord, inner: Sequence[Column], codec: str) -> None:
        super().__init__(statement, record, inner, codec)
        names = {name for name, _ in statement.more}
        self.top_k = statement.top_k or 1
        self.vector = "probabilities" if "probabilities" in names else None
        self._several = statement.top_k is not None
        self._threshold: float = statement.options.get("threshold", 0.0)
        self._labels: list[bytes] = []
        self._keys: list[tuple[int, str]] = []
        makers: dict[str, Callable[[jobs.Predicted, int, int], bytes | None]] = {
            "score": self._scores,
            "probabilities": self._probabilities,
        }
        self._makers = (self._predicted, *(makers[name] for name, _ in statement.more))

    def ready(self, classes: Sequence[str]) -> None:
        self._labels = [label.encode(self._codec, "replace") for label in classes]
        self._keys = _in_order_of_jsonb(classes)

    def values(self, reply: jobs.Predicted, index: int) -> tuple[bytes | None, ...]:
        if reply.classes[index] is None:
            return self.nulls
        return tuple([make(reply, index, format_code(self.formats, i)) for i, make in enumerate(self._makers)])

    def _predicted(self, reply: jobs.Predicted, index: int, format_: int) -> bytes | None:
        classes, scores = reply.classes[index], reply.scores[index]
        assert classes is not None, "of images that are NULL nothing is asked"
        assert scores is not None, "they come with the classes"
        if scores[0] < self._threshold:
            return None
        if not self._several:
            return self._labels[classes[0]]
        labels = [self._labels[of] for of in classes]
        return text_array(labels) if format_ == 1 else array_text(labels)

    def _scores(self, reply: jobs.Predicted, index: int, format_: int) -> bytes | None:
        scores = reply.scores[index]
        assert scores is not None, "of images that are NULL nothing is asked"
        return float8_array(scores, format_) if self._several else encode_value(scores[0], FLOAT8, format_, self._codec)

    def _probabilities(self, reply: jobs.Predicted, index: int, format_: int) -> bytes:
        vector = reply.vectors[index]
        assert vector is not None, "of images that are NULL nothing is asked"
        values = numbers(vector)
        pairs = ", ".join([f"{key}: {_decimal(values[of])}" for of, key in self._keys])
        return jsonb(f"{{{pairs}}}".encode(self._codec, "replace"), format_)


def _in_order_of_jsonb(classes: Sequence[str]) -> list[tuple[int, str]]:
    """The numbers of the classes and their names in JSON, as jsonb has its keys (jsonb_util.c: lengthCompareJsonbString)."""
    keys = [label.encode() for label in classes]
    order = sorted(range(len(keys)), key=lambda of: (len(keys[of]), keys[of]))
    return [(of, json.dumps(classes[of], ensure_ascii=False)) for of in order]


def _decimal(number: float) -> str:
    """As jsonb writes it: a numeric has no exponent."""
    text = repr(number).removesuffix(".0")
    return format(Decimal(text), "f") if "e" in text else text
