"""CSV files: PostgreSQL reads them itself, byte for byte; we only learn from them what columns there are, and of what types.

So what is NULL, what is malformed and in which line are PostgreSQL's own rules (sql-copy.html, CSV Format).  The file is read twice:
only its last line tells whether a column of numbers is one.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections.abc import Iterator
from typing import BinaryIO

from thanoproxy.errors import BadFileFormat, DuplicateColumn
from thanoproxy.files.guess import Guess
from thanoproxy.files.table import Field, Format, Table

__all__ = ["Delimited"]

LONGEST = 128 << 20
"""Characters of a line, or of a field: an image of 64 MB in hexadecimal.  An open quote would have the whole file in memory."""

_PART = 1 << 16


class Delimited(Table):
    """A file with a header.  Raises `BadFileFormat` and `DuplicateColumn`."""

    def __init__(self, file: BinaryIO, name: str, delimiter: str) -> None:
        self.format = Format("csv", delimiter, header=True)
        self._file = file
        self._name = name
        self._size = os.fstat(file.fileno()).st_size
        self._start = len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0
        csv.field_size_limit(LONGEST)
        file.seek(self._start)
        # What is no UTF-8 the server says, with the line; until then it is text.
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        lines = csv.reader(self._lines(text), delimiter=delimiter)
        try:
            names = [name.strip() for name in next(lines, ())]
            self._check(names)
            guesses = [Guess() for _ in names]
            sees = [guess.see for guess in guesses]
            for row in lines:
                for see, value in zip(sees, row, strict=False):
                    see(value)
        except csv.Error:
            raise self._wrong(lines.line_num, "has a field that is too long", "Is a quote not closed?") from None
        finally:
            text.detach()
        self.fields = [Field(name, guess.type) for name, guess in zip(names, guesses, strict=True)]

    def parts(self) -> Iterator[bytes]:
        self._file.seek(self._start)
        left = self._size - self._start  # of a file that grows, what was there
        while left > 0 and (part := self._file.read(min(_PART, left))):
            left -= len(part)
            yield part

    def close(self) -> None:
        self._file.close()

    def _lines(self, text: io.TextIOWrapper) -> Iterator[str]:
        number = 0
        while line := text.readline(LONGEST):
            number += 1
            if len(line) == LONGEST:
                raise self._wrong(number, "is too long")
            if line[:2] == "\\." and line.rstrip("\r\n") == "\\.":
                # Before PostgreSQL 18 the rest of the file would be left out without a word.
                raise self._wrong(number, "is \\., which ends PostgreSQL's COPY", "Leave it out.")
            yield line

    def _check(self, names: list[str]) -> None:
        if not names:
            raise BadFileFormat(f'file "{self._name}" is empty', hint="Its first line names the columns.")
        for number, name in enumerate(names, 1):
            if not name:
                raise self._wrong(1, f"gives column {number} no name", "The first line names the columns.")
            if any("\ud800" <= character <= "\udfff" for character in name):
                raise self._wrong(1, f"is no UTF-8 in the name of column {number}")
            if name in names[: number - 1]:
                raise DuplicateColumn(f'column "{name}" is named twice in the first line of file "{self._name}"')

    def _wrong(self, line: int, what: str, hint: str | None = None) -> BadFileFormat:
        return BadFileFormat(f'line {line} of file "{self._name}" {what}', hint=hint)
