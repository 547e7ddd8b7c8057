"""A result set as a pandas DataFrame, without losing anything on the way.

Left to itself pandas turns integers into floats where there is a NULL, which breaks numbers above 2^53, and merges columns of one
name when a frame is made from a dict.  So each column gets its dtype from its PostgreSQL type, and the names are put on afterwards.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import psycopg
from psycopg.adapt import Transformer
from psycopg.pq import Format

__all__ = ["frame"]

_TYPES = psycopg.postgres.types


def _oids(*names: str) -> frozenset[int]:
    return frozenset(_TYPES[name].oid for name in names)


_INTEGERS = _oids("int2", "int4", "int8", "oid")
_FLOATS = _oids("float4", "float8")
_BOOLEANS = _oids("bool")
# pandas finds the right dtype for these from Python's values alone: its string and its datetime types.
_INFERRED = _oids("text", "varchar", "bpchar", "name", "timestamp", "timestamptz")


def frame(cursor: psycopg.Cursor[tuple[Any, ...]]) -> pd.DataFrame:
    """The rows of the cursor's current result set, numbered from 0, with the columns in the server's order."""
    rows = _rows(cursor)
    columns = cursor.description or []
    series = {i: _series([row[i] for row in rows], column.type_code) for i, column in enumerate(columns)}
    table = pd.DataFrame(series, index=pd.RangeIndex(len(rows)))
    table.columns = pd.Index([column.name for column in columns], dtype=object)
    return table


def _series(values: list[Any], oid: int) -> pd.Series[Any]:
    has_null = None in values
    if oid in _INTEGERS:
        return pd.Series(values, dtype="Int64" if has_null else "int64")
    if oid in _FLOATS:
        return pd.Series(values, dtype="float64")
    if oid in _BOOLEANS:
        return pd.Series(values, dtype="boolean" if has_null else "bool")
    if oid in _INFERRED:
        return pd.Series(values)
    return pd.Series(values, dtype="object")


def _rows(cursor: psycopg.Cursor[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    try:
        return cursor.fetchall()
    except psycopg.DataError:
        # A value that PostgreSQL has and Python lacks: 'infinity' as a date, a year before 1 or after 9999, 24:00 as a time.
        return _rows_with_text(cursor)


def _rows_with_text(cursor: psycopg.Cursor[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The same rows, with a value that has no Python counterpart as PostgreSQL's text of it."""
    result = cursor.pgresult
    assert result is not None, "fetchall had a result to fail on"
    transformer = Transformer(cursor)
    loaders = [transformer.get_loader(result.ftype(c), Format.TEXT) for c in range(result.nfields)]

    def load(row: int, column: int) -> Any:
        value = result.get_value(row, column)
        if value is None:
            return None
        try:
            return loaders[column].load(value)
        except psycopg.DataError:
            return bytes(value).decode(cursor.connection.info.encoding)

    return [tuple(load(r, c) for c in range(result.nfields)) for r in range(result.ntuples)]
