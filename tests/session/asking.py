"""Questions by psycopg, whose answers the tests compare."""

from __future__ import annotations

from typing import Any, LiteralString, cast

import psycopg

__all__ = ["Connection", "fetched", "text"]

Connection = psycopg.Connection[tuple[Any, ...]]


def text(statement: str) -> LiteralString:
    """psycopg wants to see that no text comes from outside."""
    return cast(LiteralString, statement)


def fetched(connection: Connection, statement: str, *values: object, prepare: bool | None = None) -> list[tuple[Any, ...]]:
    return connection.execute(text(statement), values or None, prepare=prepare).fetchall()
