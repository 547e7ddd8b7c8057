"""Where predictions wait for their COPY: rows of its binary format, in a file: a connection that still sends rows takes none."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from struct import Struct

from thanoproxy.session.decorate import Emit
from thanoproxy.statements.shapes import Added, Decoration
from thanoproxy.wire.values import SQL_NAMES, field_at
from thanoproxy.workers import jobs

__all__ = ["Sheet", "answer_table", "copy_from", "copy_row", "prediction_rows", "predictions_table"]

_IN_MEMORY = 4 << 20
_PART = 1 << 16

# https://www.postgresql.org/docs/18/sql-copy.html#SQL-COPY-FILE-FORMATS-BINARY
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_I16, _I32 = Struct("!h"), Struct("!i")
_NULL = _I32.pack(-1)
_TID = Struct("!IH")


def predictions_table(table: str, added: Sequence[Added]) -> str:
    """The table beside `table` that takes the rows: the place of a row there, and what is added to it."""
    return f"CREATE TEMPORARY TABLE {table}_p (place pg_catalog.tid, {_columns(added)}) ON COMMIT DROP"


def answer_table(table: str, answers: Sequence[Added]) -> str:
    """The table that takes the rows of an answer."""
    return f"CREATE TEMPORARY TABLE {table} ({_columns(answers)}) ON COMMIT DROP"


def _columns(columns: Sequence[Added]) -> str:
    return ", ".join(f"p{i} {SQL_NAMES[type_oid]}" for i, (_, type_oid) in enumerate(columns))


def copy_from(table: str) -> str:
    """Opens our temporary `table` for a sheet."""
    return f"COPY pg_temp.{table} FROM STDIN (FORMAT binary)"


class Sheet:
    """A `RowStream` writes to it as to a client that never falls behind.  It begins in memory and goes on in `folder`."""

    full = False

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(folder))  # noqa: SIM115 - closed by `close`
        self.write(_HEADER)

    def close(self) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        self._file.write(data)

    async def drained(self) -> None:
        """A file always has room."""

    async def parts(self) -> AsyncIterator[bytes]:
        """What was written, from the beginning."""
        self.write(_TRAILER)
        self._file.seek(0)
        while part := self._file.read(_PART):
            yield part


def copy_row(fields: Iterable[bytes | None]) -> bytes:
    """A row of `fields` in their binary formats."""
    parts = [_NULL if field is None else _I32.pack(len(field)) + field for field in fields]
    return _I16.pack(len(parts)) + b"".join(parts)


def prediction_rows(decoration: Decoration) -> Emit:
    """From a row, whose first field is its place, to a row for the table of predictions."""
    decoration.formats = (1,)

    def written(row: bytes, reply: jobs.Predicted, index: int) -> bytes:
        place, fields = field_at(row, 0), decoration.fields(reply, index)
        assert place is not None, "every row of a table has a place"
        if fields is None:
            return b""
        block, _, offset = place[1:-1].partition(b",")
        return copy_row((_TID.pack(int(block), int(offset)), *fields))

    return written
