"""Parquet files, read by pyarrow, whose own CSV writer makes of them what COPY reads: NULL without quotes, texts always within.

pyarrow is an optional part of the package (`thanoproxy[parquet]`).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from thanoproxy.errors import BadFileFormat, DuplicateColumn, FeatureNotSupported
from thanoproxy.files.table import TEXT, Field, Format, Table
from thanoproxy.wire.values import array_text

__all__ = ["TYPES", "Parquet"]

TYPES: Sequence[tuple[str, str]] = (
    ("is_boolean", "pg_catalog.bool"),
    ("is_int8", "pg_catalog.int2"),
    ("is_int16", "pg_catalog.int2"),
    ("is_int32", "pg_catalog.int4"),
    ("is_int64", "pg_catalog.int8"),
    ("is_uint8", "pg_catalog.int2"),
    ("is_uint16", "pg_catalog.int4"),
    ("is_uint32", "pg_catalog.int8"),
    ("is_uint64", "pg_catalog.numeric"),
    ("is_float16", "pg_catalog.float4"),
    ("is_float32", "pg_catalog.float4"),
    ("is_float64", "pg_catalog.float8"),
    ("is_decimal", "pg_catalog.numeric"),
    ("is_string", TEXT),
    ("is_large_string", TEXT),
    ("is_string_view", TEXT),
    ("is_null", TEXT),
    ("is_binary", "pg_catalog.bytea"),
    ("is_large_binary", "pg_catalog.bytea"),
    ("is_fixed_size_binary", "pg_catalog.bytea"),
    ("is_date", "pg_catalog.date"),
    ("is_time", "pg_catalog.time"),
)
"""Arrow's type, by the function of `pyarrow.types` that tells it, and ours.  Timestamps depend on whether they have a time zone; a
dictionary counts as what is in it, a list as an array of numbers, texts or booleans."""

_IN_ARRAYS = frozenset({"bool", "int2", "int4", "int8", "numeric", "float4", "float8", "text"})
_PART = 8 << 20
_MOST_ROWS = 10_000


class Parquet(Table):
    """Raises `BadFileFormat`, `DuplicateColumn`, and `FeatureNotSupported` for a column whose type has no like."""

    format = Format("csv")

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._pa = _pyarrow()
        self._open, self._name = file, name
        try:
            self._file = self._pa.parquet.ParquetFile(file)
            schema = self._file.schema_arrow
        except (self._pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from error
        self.fields = [Field(field.name, self._type(field)) for field in schema]
        names = [field.name for field in self.fields]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DuplicateColumn(f'column "{twice}" is twice in file "{name}"')
        if not names:
            raise BadFileFormat(f'file "{name}" has no columns')

    def parts(self) -> Iterator[bytes]:
        metadata = self._file.metadata
        stored = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        rows = max(1, min(_MOST_ROWS, _PART * metadata.num_rows // max(stored, 1)))
        try:
            for batch in self._file.iter_batches(batch_size=rows, use_threads=False):
                yield self._written(batch)
        except (self._pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from error

    def close(self) -> None:
        self._open.close()

    def _written(self, batch: Any) -> bytes:
        columns = [self._plain(column, field.type) for column, field in zip(batch.columns, self.fields, strict=True)]
        table = self._pa.RecordBatch.from_arrays(columns, [f"c{i}" for i in range(len(columns))])
        buffer = io.BytesIO()
        self._pa.csv.write_csv(table, buffer, self._pa.csv.WriteOptions(include_header=False, quoting_style="needed"))
        return buffer.getvalue()

    def _plain(self, column: Any, type_: str) -> Any:
        """The column as pyarrow's writer takes it."""
        make: Callable[[Any], str] | None = None
        if type_ == "pg_catalog.bytea":
            make = _hexadecimal
        elif type_.endswith("[]"):
            make = _array
        if make is None:
            return column
        return self._pa.array([None if value is None else make(value) for value in column.to_pylist()], self._pa.string())

    def _type(self, field: Any) -> str:
        kinds = self._pa.types
        found = field.type.value_type if kinds.is_dictionary(field.type) else field.type
        if kinds.is_timestamp(found):
            return "pg_catalog.timestamp" if found.tz is None else "pg_catalog.timestamptz"
        if kinds.is_list(found) or kinds.is_large_list(found) or kinds.is_fixed_size_list(found):
            of = self._simple(found.value_type)
            if of is not None and of.removeprefix("pg_catalog.") in _IN_ARRAYS:
                return f"{of}[]"
        simple = self._simple(found)
        if simple is None:
            raise FeatureNotSupported(
                f'column "{field.name}" of file "{self._name}" is of type {field.type}, which is not supported',
                hint="Write the file without it.",
            )
        return simple

    def _simple(self, found: Any) -> str | None:
        return next((name for test, name in TYPES if getattr(self._pa.types, test)(found)), None)

    def _damaged(self, error: Exception) -> BadFileFormat:
        return BadFileFormat(f'file "{self._name}" is no parquet file, or damaged', detail=str(error))


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError:
        raise FeatureNotSupported(
            "parquet files cannot be read, because pyarrow is not installed", hint="Install the package thanoproxy[parquet]."
        ) from None
    return pyarrow


def _hexadecimal(value: bytes) -> str:
    return "\\x" + value.hex()


def _array(values: Sequence[object]) -> str:
    return array_text([None if value is None else str(value).encode() for value in values]).decode()
