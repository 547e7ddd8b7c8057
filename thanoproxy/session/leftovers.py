"""What statements with PREDICTs inside leave behind on the server: temporary tables, and prepared statements of ours.

The tables go with the transaction.  Within a long one they go as soon as the portal that reads them is no more, and the prepared
statements, which no transaction ends, at the next opportunity.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

from thanoproxy.session.exchange import Exchange
from thanoproxy.wire import messages

__all__ = ["Leftovers"]


class _Left(NamedTuple):
    portal: bytes
    statement: bytes
    tables: Sequence[str]


class Leftovers:
    """Of one session."""

    def __init__(self) -> None:
        self._left: list[_Left] = []
        self._numbers = count()

    def add(self, portal: bytes, tables: Sequence[str]) -> bytes:
        """`portal` is about to read `tables`; return a name for the statement it will be bound to."""
        name = b"thanoproxy %d" % next(self._numbers)
        self._left.append(_Left(portal, name, tables))
        return name

    def done(self, tables: Sequence[str]) -> None:
        """The unnamed portal has read `tables`, and no statement is left behind."""
        self._left.append(_Left(b"", b"", tables))

    def committed(self) -> None:
        """The transaction is over, and its tables with it."""
        self._left = [left._replace(tables=()) for left in self._left]

    async def clear(self, exchange: Exchange, portal: bytes) -> None:
        """`portal` is about to be bound anew: what it read, and what is of no use to anybody, goes.  Raises `UpstreamError`."""
        gone = [left for left in self._left if left.portal == portal or not left.tables]
        if not gone:
            return
        self._left = [left for left in self._left if left not in gone]
        closes = [messages.close(b"S", left.statement) for left in gone if left.statement]
        if portal == b"":
            closes.append(messages.close(b"P", b""))
        if closes:
            await exchange.swallow(b"".join(closes), b"3", len(closes))
        tables = [table for left in gone for table in left.tables]
        if tables and portal == b"":
            await _drop(exchange, tables)


async def _drop(exchange: Exchange, tables: Sequence[str]) -> None:
    """Drop those that a ROLLBACK TO has left (IF EXISTS would tell the client about the others) and that SET ROLE lets us drop."""
    names = ", ".join(f"'{table}'" for table in tables)
    found = await exchange.ask(
        "SELECT c.relname FROM pg_catalog.pg_class c "  # noqa: S608 - names of our own making
        f"WHERE c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() "
        f"AND pg_catalog.pg_has_role(c.relowner, 'USAGE') AND c.relname::pg_catalog.text IN ({names})"
    )
    if found:
        await exchange.ask(f"DROP TABLE {', '.join(f'pg_temp.{name}' for (name,) in found)}")
