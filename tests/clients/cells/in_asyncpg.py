"""asyncpg: `execute` is a simple Query where nothing is bound, and shows its tag alone; `prepare` gives a name if it is told one."""

from __future__ import annotations

import re
from typing import Any

import asyncpg

from tests.clients.cells.script import Scripts, Seen, Step, error
from tests.conftest import run_aside

__all__ = ["play"]

_COPY = re.compile(r"COPY \((?P<query>.*)\) TO STDOUT(?: \(FORMAT (?P<format>\w+)(?P<header>, HEADER)?\))?")


def play(url: str, scripts: Scripts) -> Seen:
    return run_aside(_play(url, scripts))


async def _play(url: str, scripts: Scripts) -> Seen:
    # Without its cache a statement that nobody named has no name for the server either.
    connection = await asyncpg.connect(url, statement_cache_size=0)
    prepared: dict[str, Any] = {}
    try:
        return {name: [await _lines(connection, step, prepared) for step in steps] for name, steps in scripts.items()}
    finally:
        await connection.close()


async def _lines(connection: asyncpg.Connection[Any], step: Step, prepared: dict[str, Any]) -> list[str]:
    try:
        if match := _COPY.fullmatch(step.text):
            return await _copied(connection, match)
        if step.way in ("aside", "simple"):
            return [await connection.execute(step.text)]
        if step.way in ("look", "extended"):
            return await _fetched(await connection.prepare(step.text), step)
        if step.text not in prepared:
            prepared[step.text] = await connection.prepare(step.text, name=f"cell_{len(prepared)}")
        return await _fetched(prepared[step.text], step)
    except asyncpg.PostgresError as problem:
        return [error(problem.sqlstate)]
    except asyncpg.InterfaceError as problem:  # its own, before anything is sent
        return [error(None), str(problem)]


async def _fetched(statement: Any, step: Step) -> list[str]:
    rows = await statement.fetch(*step.values[:1])
    columns = [(attribute.name, attribute.type.name) for attribute in statement.get_attributes()]
    return [str(columns), *(str(tuple(row)) for row in rows), statement.get_statusmsg()]


async def _copied(connection: asyncpg.Connection[Any], match: re.Match[str]) -> list[str]:
    """It writes the COPY around a query itself."""
    parts: list[str] = []

    async def keep(part: bytes) -> None:
        parts.append(str(part))

    options: dict[str, Any] = {"format": match["format"], "header": match["header"] is not None or None}
    tag = await connection.copy_from_query(match["query"], output=keep, **options)
    return [*parts, tag]
