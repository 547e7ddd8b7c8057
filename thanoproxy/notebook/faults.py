"""What goes wrong in a cell, shown the way psql shows it: a few lines, a caret, no traceback.

The exceptions are raised all the same, so that "run all" stops at the cell.  IPython asks an exception for `_render_traceback_` and
shows those lines instead of the frames of this package.
"""

from __future__ import annotations

import unicodedata

import psycopg

__all__ = ["ConnectionFault", "Interrupted", "NotInNotebook", "SqlError"]

_WINDOW = 100  # columns of a long line that are shown around the position


class _Compact(BaseException):
    """Shows itself as its own text."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


class _Refusal(_Compact, Exception):
    """An error of this side, before or after the server had its say."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"ERROR:  {message}" + (f"\nHINT:  {hint}" if hint else ""))


class ConnectionFault(_Refusal):
    """There is no connection to run a statement on."""


class NotInNotebook(_Refusal):
    """A statement that PostgreSQL takes and a cell has no way to run."""


class SqlError(_Compact, Exception):
    """PostgreSQL, or the proxy, refused a statement; the fields are those of its ErrorResponse."""

    def __init__(self, error: psycopg.Error, statement: str) -> None:
        diag = error.diag
        self.sqlstate = error.sqlstate
        self.message = diag.message_primary or _first_line(str(error))
        self.detail = diag.message_detail
        self.hint = diag.message_hint
        self.context = diag.context
        self.position = int(diag.statement_position) if diag.statement_position else None
        super().__init__(_compose(self, diag.severity or "ERROR", statement))


class Interrupted(_Compact, KeyboardInterrupt):
    """The user stopped the cell; the statement was cancelled on the server."""

    def __init__(self) -> None:
        super().__init__("Interrupted: the statement was cancelled on the server.")


def _compose(error: SqlError, severity: str, statement: str) -> str:
    lines = [f"{severity}:  {error.sqlstate}: {error.message}" if error.sqlstate else f"{severity}:  {error.message}"]
    if error.position is not None:
        lines += _pointer(statement, error.position)
    for title, text in (("DETAIL", error.detail), ("HINT", error.hint), ("CONTEXT", error.context)):
        if text:
            lines.append(f"{title}:  {text}")
    return "\n".join(lines)


def _pointer(statement: str, position: int) -> list[str]:
    """The line of `statement` that holds character `position` (from 1), and a caret below that character."""
    index = position - 1
    if not 0 <= index <= len(statement):
        return []
    start = statement.rfind("\n", 0, index) + 1
    end = statement.find("\n", index)
    line = statement[start : len(statement) if end < 0 else end].replace("\t", " ").rstrip("\r")
    column = index - start
    if len(line) > _WINDOW:
        cut = max(0, min(column - _WINDOW // 2, len(line) - _WINDOW))
        head, tail = "..." if cut else "", "..." if cut + _WINDOW < len(line) else ""
        line, column = head + line[cut : cut + _WINDOW] + tail, column - cut + len(head)
    prefix = f"LINE {statement.count(chr(10), 0, index) + 1}: "
    return [prefix + line, " " * (len(prefix) + _width(line[:column])) + "^"]


def _width(text: str) -> int:
    """Columns that `text` takes in a monospaced font."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
