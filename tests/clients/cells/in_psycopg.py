"""psycopg 3: a client-side cursor is a simple Query; a binary result needs the extended protocol; `prepare` names the statement."""

from __future__ import annotations

from typing import Any

import psycopg

from tests.clients.cells.script import Scripts, Seen, Step, error

__all__ = ["play"]

Connection = psycopg.Connection[tuple[Any, ...]]


def play(url: str, scripts: Scripts) -> Seen:
    with psycopg.connect(url, autocommit=True) as connection:
        return {name: [_lines(connection, step) for step in steps] for name, steps in scripts.items()}


def _lines(connection: Connection, step: Step) -> list[str]:
    text = step.spelled("%s")
    try:
        if text.startswith("COPY"):
            return _copied(connection, text)
        return _results(_executed(connection, step, text))
    except psycopg.Error as problem:
        return [error(problem.sqlstate)]


def _executed(connection: Connection, step: Step, text: str) -> psycopg.Cursor[tuple[Any, ...]]:
    if step.way in ("aside", "simple"):
        return psycopg.ClientCursor(connection).execute(text)
    if step.way == "extended":
        return connection.execute(text, step.values or None, prepare=False, binary=True)
    return connection.execute(text, step.values or None, prepare=step.way == "prepared")


def _results(cursor: psycopg.Cursor[tuple[Any, ...]]) -> list[str]:
    lines = []
    while True:
        lines.append(str(cursor.statusmessage))
        if cursor.description is not None:
            lines.append(str([(column.name, column.type_code) for column in cursor.description]))
            lines += [str(row) for row in cursor]
        if not cursor.nextset():
            return lines


def _copied(connection: Connection, text: str) -> list[str]:
    with connection.cursor() as cursor:
        with cursor.copy(text) as copy:
            parts = [str(bytes(part)) for part in copy]
        return [*parts, str(cursor.statusmessage)]
