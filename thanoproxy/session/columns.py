"""Where temporary tables are refused, in READ ONLY transactions and on standbys: the rows of a hole as parameters of the statement.

Each column is a text[], cast back to its type where it is read.  That is memory, here and in the server, so it is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence

from thanoproxy.errors import ProgramLimitExceeded
from thanoproxy.sql.source import Source
from thanoproxy.statements.render import in_order, quoted
from thanoproxy.statements.shapes import Decoration
from thanoproxy.wire import messages
from thanoproxy.wire.messages import Column
from thanoproxy.wire.values import text_array
from thanoproxy.workers import jobs

__all__ = ["Columns", "type_names", "unnested"]

LIMIT = 64 << 20
"""Bytes of rows."""


class Columns:
    """What a `RowStream` writes, by column: the `count` of the query, then those that `decoration` adds."""

    full = False

    def __init__(self, decoration: Decoration, count: int) -> None:
        self._decoration = decoration
        self._values: list[list[bytes | None]] = [[] for _ in range(count)]
        self._size = 0

    def take(self, row: bytes, reply: jobs.Predicted, index: int) -> bytes:
        """A row in text format and its predictions.  Raises `ProgramLimitExceeded`."""
        added = self._decoration.fields(reply, index)
        if added is None:
            return b""
        self._size += len(row) + sum(len(field) for field in added if field is not None)
        if self._size > LIMIT:
            raise ProgramLimitExceeded(
                f"the rows of a PREDICT or CONVERT are more than {LIMIT >> 20} MB, and a read-only transaction has no room for them",
                hint="Outside of read-only transactions there is no such limit.",
            )
        for values, value in zip(self._values, (*messages.read_data_row(row), *added), strict=True):
            values.append(value)
        return b""

    def write(self, data: bytes) -> None:
        """Nothing: `take` has it."""

    async def drained(self) -> None:
        """There is room up to the limit."""

    def arrays(self) -> list[bytes]:
        """A text[] for each column."""
        return [text_array(values) for values in self._values]


def type_names(columns: Sequence[Column]) -> str:
    """A query for the columns' types by name, in order."""
    oids = ", ".join(f"{column.type_oid}::pg_catalog.oid" for column in columns)
    modifiers = ", ".join(f"({column.type_modifier})" for column in columns)
    return (
        "SELECT pg_catalog.format_type(u.t, u.m) FROM ROWS FROM ("  # noqa: S608
        f"pg_catalog.unnest(ARRAY[{oids}]), pg_catalog.unnest(ARRAY[{modifiers}])) WITH ORDINALITY AS u(t, m, n) ORDER BY u.n"
    )


def unnested(first: int, names: Sequence[str], types: Sequence[str]) -> Source:
    """The rows that stand in the parameters from number `first` on."""
    count = len(names)
    selected = [f"CAST(u.c{i} AS {type_}) AS {quoted(name)}" for i, (name, type_) in enumerate(zip(names, types, strict=True))]
    functions = ", ".join(f"pg_catalog.unnest(${first + i})" for i in range(count))
    columns = ", ".join(f"c{i}" for i in range(count))
    return in_order(
        f"SELECT {', '.join(selected)} FROM ROWS FROM ({functions}) WITH ORDINALITY AS u({columns}, n) ORDER BY u.n"  # noqa: S608
    )
