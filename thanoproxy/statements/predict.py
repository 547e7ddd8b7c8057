"""PREDICT USING model [OPTIONS (…)] AS query: every row of the query, with the label the model gives its image."""

from __future__ import annotations

from collections.abc import Sequence

from thanoproxy.sql.clauses import Cursor
from thanoproxy.statements.shapes import Added, Decorate, Decoration, Seal
from thanoproxy.statements.using import COLUMN_RULES as RULES
from thanoproxy.statements.using import AddColumn, ModelAtWork, check_row, read_clauses
from thanoproxy.wire.messages import Column
from thanoproxy.wire.values import TEXT
from thanoproxy.workers import jobs

__all__ = ["LATER", "RULES", "parse"]

LATER = frozenset({"top_k", "score", "probabilities", "threshold", "on_error", "cache"})


def parse(cursor: Cursor) -> Decorate:
    """Behind PREDICT."""
    return Predict(*read_clauses(cursor, "PREDICT", RULES, LATER))


class Predict(AddColumn):
    """A PREDICT as written."""

    noun = "prediction"
    column = Added("predicted", TEXT)

    def open(self, found: Sequence[str | None] | None, inner: Sequence[Column], codec: str, seal: Seal) -> Decoration:
        return Prediction(self, self.record(found, seal), inner, codec)


class Prediction(ModelAtWork, Decoration):
    """Adds the label of the best class; text has the same bytes in both formats."""

    verb = "Predict"
    _labels: Sequence[bytes] = ()

    def ready(self, classes: Sequence[str]) -> None:
        self._labels = [label.encode(self._codec, "replace") for label in classes]

    def fields(self, reply: jobs.Predicted, index: int) -> tuple[bytes | None, ...]:
        check_row(reply, index)
        best = reply.classes[index]
        return (None if best is None else self._labels[best[0]],)
