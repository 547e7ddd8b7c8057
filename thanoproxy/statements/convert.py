"""CONVERT USING model [OPTIONS (…)] AS query: every row of the query, with its image as numbers, which similar images have alike."""

from __future__ import annotations

from collections.abc import Sequence

from thanoproxy.sql.clauses import Cursor
from thanoproxy.statements.shapes import Added, Decorate, Decoration, Seal
from thanoproxy.statements.using import COLUMN_RULES as RULES
from thanoproxy.statements.using import AddColumns, ColumnsAtWork, read_clauses
from thanoproxy.wire.floats import float4_array
from thanoproxy.wire.messages import Column, format_code
from thanoproxy.wire.values import FLOAT4_ARRAY
from thanoproxy.workers import jobs

__all__ = ["LATER", "RULES", "parse"]

LATER = frozenset[str]()


def parse(cursor: Cursor) -> Decorate:
    """Behind CONVERT."""
    return Convert(*read_clauses(cursor, "CONVERT", RULES, LATER))


class Convert(AddColumns):
    """A CONVERT as written."""

    noun = "embedding"
    column = Added("embedding", FLOAT4_ARRAY)

    def open(self, found: Sequence[str | None] | None, inner: Sequence[Column], codec: str, seal: Seal) -> Decoration:
        return Conversion(self, self.record(found, seal), inner, codec)


class Conversion(ColumnsAtWork):
    """Adds the features that the model's last layer sees."""

    verb = "Convert"
    vector = "features"
    top_k = 0

    def ready(self, classes: Sequence[str]) -> None:
        """Labels are of no use here."""

    def values(self, reply: jobs.Predicted, index: int) -> tuple[bytes | None, ...]:
        features = reply.vectors[index]
        return (None if features is None else float4_array(features, format_code(self.formats, 0)),)
