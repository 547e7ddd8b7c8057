"""Where predictions wait for their COPY: lines of its text format, in a file, since a connection that still sends rows cannot take them."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from thanoproxy.wire.values import field_at

__all__ = ["Sheet", "prediction_lines", "predictions_table"]

_IN_MEMORY = 4 << 20
_PART = 1 << 16


def predictions_table(table: str, added: Sequence[str]) -> str:
    """The table beside `table` that takes the lines: the place of a row, and what is added to it."""
    columns = ", ".join(f"p{i} pg_catalog.text" for i in range(len(added)))
    return f"CREATE TEMPORARY TABLE {table}_p (place pg_catalog.tid, {columns}) ON COMMIT DROP"


class Sheet:
    """A `RowStream` writes to it as to a client that never falls behind.  It begins in memory and goes on in `folder`."""

    full = False

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(folder))  # noqa: SIM115 - closed by `close`

    def close(self) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        self._file.write(data)

    async def drained(self) -> None:
        """A file always has room."""

    async def parts(self) -> AsyncIterator[bytes]:
        """What was written, from the beginning."""
        self._file.seek(0)
        while part := self._file.read(_PART):
            yield part


def prediction_lines(codec: str) -> Callable[[bytes, Sequence[bytes | None]], bytes]:
    """From a row, whose first field is its place, and its predictions to a line for their table, in the client's encoding."""

    def line(row: bytes, added: Sequence[bytes | None]) -> bytes:
        place = field_at(row, 0)
        assert place is not None, "every row of a table has a place"
        return b"\t".join((place, *(_escaped(value, codec) for value in added))) + b"\n"

    return line


def _escaped(value: bytes | None, codec: str) -> bytes:
    """A field of COPY's text format (sql-copy.html).  By characters: in Shift JIS and its like a byte may look like a backslash."""
    if value is None:
        return b"\\N"
    text = value.decode(codec).replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return text.encode(codec)
