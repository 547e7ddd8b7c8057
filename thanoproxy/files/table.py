"""What every kind of file with rows can do: say its columns, then give its rows as COPY takes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

__all__ = ["TEXT", "Field", "Format", "Table", "Wanted"]

TEXT = "pg_catalog.text"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What to read, and the folders that it may lie below; `image_col` and `label_col` are None where nobody has named them."""

    source: str
    image_roots: tuple[str, ...]
    file_roots: tuple[str, ...]
    image_col: str | None = None
    label_col: str | None = None


class Field(msgspec.Struct, frozen=True):
    """A column: its name, and the type that a table made for it gives it, as SQL writes that."""

    name: str
    type: str


class Format(msgspec.Struct, frozen=True):
    """How COPY is told to read the rows; `delimiter` and `header` are for CSV."""

    kind: Literal["text", "csv"]
    delimiter: str = ","
    header: bool = False


class Table(ABC):
    """The rows of a file, or of a folder of files.  What is wrong is raised by the constructor if it can be known by then."""

    fields: Sequence[Field]
    format: Format

    @abstractmethod
    def parts(self) -> Iterator[bytes]:
        """The rows, once, in UTF-8, cut anywhere.  Raises `ThanoError`."""

    def remark(self) -> str | None:
        """What whoever asked should know, once the rows are through."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Let go of files."""
