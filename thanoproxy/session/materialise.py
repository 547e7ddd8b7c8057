"""Statements of ours inside PostgreSQL's own: each becomes two temporary tables, and the statement around it reads those.

    rows          CREATE TEMPORARY TABLE … AS the hole's query: the server keeps its rows, whatever their types
    predictions   the row's place (ctid) and our columns, copied in once the workers have answered
    in its place  SELECT the columns, the predictions FROM rows JOIN predictions, in the order of the rows

So the rest of the statement is PostgreSQL's alone: joins, groups, cursors, COPY, INSERT, row limits, command tags.  The tables go with
the transaction, or before, where the statement is over (`Leftovers`).  Only places, images and predictions pass through us; the
predictions wait in a file that is bounded by the disk, since a connection that sends rows cannot take a COPY.  The few rows of an
EVALUATE need no table: in its place stand the values themselves.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from thanoproxy.errors import FeatureNotSupported, SyntaxProblem
from thanoproxy.session.columns import Columns, type_names, unnested
from thanoproxy.session.decorate import RowStream, warn
from thanoproxy.session.exchange import Bound, Exchange
from thanoproxy.session.execute import open_decoration
from thanoproxy.session.summarise import evaluating, summary_stream
from thanoproxy.session.tables import Tables
from thanoproxy.sql.source import Source
from thanoproxy.statements.narrow import EVERYTHING, Need, needs
from thanoproxy.statements.render import answered, described, filled, hole_query, narrowed, predicted, rewritten, unpredicted
from thanoproxy.statements.shapes import Decorate, Decoration, Hole, Nested, Rewrite, Summarise
from thanoproxy.wire import messages
from thanoproxy.wire.messages import Column, ErrorFields
from thanoproxy.wire.pipeline import UpstreamError
from thanoproxy.wire.values import SQL_NAMES

if TYPE_CHECKING:
    from thanoproxy.session.attend import Attendant

__all__ = ["Filled", "Refused", "explained", "hole_columns", "materialise", "refusing"]

_NO_COLUMN = ("42P16", "42P22")
_REACHES_OUT = ("missing FROM-clause entry", "invalid reference to FROM-clause entry")
_OWN_COLUMNS = "The query of a PREDICT, CONVERT or EVALUATE runs once, by itself: it cannot name columns of the query around it."


class Refused(Exception):
    """An error of the server's about text of ours, in terms of the client's text."""

    def __init__(self, fields: ErrorFields) -> None:
        super().__init__(f"{fields.sqlstate}: {fields.text}")
        self.fields = fields


@contextmanager
def refusing(attendant: Attendant, source: Source) -> Iterator[None]:
    """What the server finds wrong with `source` becomes `Refused`."""
    try:
        yield
    except UpstreamError as problem:
        raise Refused(attendant.translated(problem.fields, source)) from None


async def hole_columns(exchange: Exchange, shape: Decorate | Summarise, query: Source, types: tuple[int, ...] = ()) -> tuple[Column, ...]:
    """The columns of a hole's query, which must be what the statement needs.  Raises `ThanoError` or `UpstreamError`."""
    columns = await exchange.columns(query.text, types)
    if columns is None:
        raise SyntaxProblem("the query after AS returns no rows", position=shape.inner.start + 1)
    shape.columns(columns, exchange.codec)
    return columns


class Filled(NamedTuple):
    """A statement that PostgreSQL can run with the parameters `bound`: over `tables`, with `lines` to be shown behind its EXPLAIN."""

    source: Source
    bound: Bound
    tables: list[str]
    lines: list[str]


async def materialise(attendant: Attendant, statement: Nested, bound: Bound) -> Filled:
    """Fill the holes.  Raises `Refused` or `ThanoError`."""
    work = _Materialisation(attendant, statement, bound)
    for hole in statement.holes:
        await work.run(hole)
    lines = work.lines if statement.explain is not None and statement.explain.lines else []
    return Filled(filled(statement, statement.start, statement.end, statement.holes, work.fill), work.bound, work.made, lines)


class _Materialisation:
    """One execution of a statement with holes."""

    def __init__(self, attendant: Attendant, statement: Nested, bound: Bound) -> None:
        self.attendant = attendant
        self.exchange = attendant.exchange
        self.statement = statement
        self.bound = bound
        self._tables = Tables(attendant)
        self.lines: list[str] = []
        added = [hole.shape.names if isinstance(hole.shape, Decorate) else () for hole in statement.holes]
        self._needs = dict(zip(statement.holes, needs(described(statement).text, added, bound.numbers()), strict=True))
        self._sources: dict[Hole, Source] = {}

    @property
    def made(self) -> list[str]:
        return self._tables.made

    def fill(self, hole: Hole) -> Source:
        return self._sources[hole]

    async def run(self, hole: Hole) -> None:
        """Fill the hole, those inside it first."""
        for inner in hole.holes:
            await self.run(inner)
        if isinstance(hole.shape, Rewrite):
            self._sources[hole] = rewritten(hole.shape)
            return
        query = hole_query(self.statement, hole, self.fill)
        try:
            columns = await hole_columns(self.exchange, hole.shape, query, self.bound.types)
            if isinstance(hole.shape, Summarise):
                self._sources[hole] = await self._summarised(hole.shape, query, columns)
            else:
                self._sources[hole] = await self._predicted(hole.shape, query, columns, self._needs.get(hole, EVERYTHING))
        except UpstreamError as problem:
            raise self._refusal(problem.fields, query) from None

    async def _summarised(self, shape: Summarise, query: Source, columns: Sequence[Column]) -> Source:
        exchange, services = self.exchange, self.attendant.services
        summary = shape.open(await exchange.first(shape.lookup()), columns, exchange.codec, services.seal)
        explain = self.statement.explain
        if explain is not None and not explain.analyze:
            self.lines.append(f"{summary.title}: each row of its query")
            return unpredicted(shape, query)
        plan = [] if explain is None else [row[0] or "" for row in await exchange.ask(f"EXPLAIN {query.text}", self.bound)]
        started = time.perf_counter()
        stream = summary_stream(summary, services, exchange.upstream)
        async with evaluating(summary, stream, self.attendant.audience, self.attendant.stop):
            await self._tables.read(query.text, self.bound, stream)
        self._report(summary.title, stream, started, plan)
        # A large confusion matrix takes a second to write; others go on meanwhile.
        return await asyncio.to_thread(lambda: answered(shape.answers, summary.answer()))

    def _report(self, title: str, stream: RowStream, started: float, plan: Sequence[str]) -> None:
        seconds = time.perf_counter() - started
        devices = ", ".join(sorted(stream.devices)) or "no device"
        self.lines.append(f"{title}: rows={stream.rows} batches={stream.batches} on {devices}, {seconds * 1000:.3f} ms")
        self.lines += [f"  {line}" for line in plan]

    async def _predicted(self, shape: Decorate, query: Source, columns: Sequence[Column], need: Need) -> Source:
        exchange = self.exchange
        names = [column.name.decode(exchange.codec, "replace") for column in columns]
        decoration = await open_decoration(exchange, self.attendant.services, shape, columns)
        title = decoration.title
        if shape.skips:
            need = replace(need, predictions=True, order=None, limit=None)  # which rows there are, the images tell
        query = narrowed(query, need, names)
        if not need.predictions:
            self.lines.append(f"{title}: never executed, nothing reads the predictions")
            return unpredicted(shape, query)
        explain = self.statement.explain
        if explain is not None and not explain.analyze:
            self.lines.append(f"{title}: each row of its query{need.clauses(names)}")
            return unpredicted(shape, query)
        if await self._read_only():
            return await self._in_parameters(shape, decoration, query, columns, names)
        table, plan = await self._keep(query, names)
        started = time.perf_counter()
        stream = await self._tables.predict(table, decoration, shape.added)
        self._report(title, stream, started, plan)
        return predicted(table, shape.added, names)

    async def _read_only(self) -> bool:
        return await self.exchange.ask("SELECT pg_catalog.current_setting('transaction_read_only')") == [["on"]]

    async def _in_parameters(
        self, shape: Decorate, decoration: Decoration, query: Source, columns: Sequence[Column], names: Sequence[str]
    ) -> Source:
        if self.statement.text[:4].upper() == "COPY":
            raise FeatureNotSupported(
                "COPY of predictions needs temporary tables, which a read-only transaction refuses",
                hint="Send the statement inside of it by itself.",
            )
        types = [row[0] or "" for row in await self.exchange.ask(type_names(columns))]
        sheet = Columns(decoration, len(columns) + len(shape.added))
        stream = RowStream(decoration, self.attendant.services.pool, self.exchange.upstream, sheet, sheet.take)
        await self._tables.read(query.text, self.bound, stream)
        warn(decoration, self.exchange)
        first = len(self.bound.types) + 1
        self.bound = self.bound.extended(sheet.arrays())
        return unnested(first, [*names, *shape.names], [*types, *(SQL_NAMES[type_oid] for _, type_oid in shape.added)])

    async def _keep(self, query: Source, names: Sequence[str]) -> tuple[str, list[str]]:
        """A temporary table of the query's rows, and where a plan is asked for, how they were found."""
        table = self._tables.new()
        columns = ", ".join(f"c{i}" for i in range(len(names)))
        create = Source("" if self.statement.explain is None else "EXPLAIN ANALYZE ")
        create.add(f"CREATE TEMPORARY TABLE {table} ({columns}) ON COMMIT DROP AS ")
        create.extend(query)
        try:
            rows = await self.exchange.ask(create.text, self.bound)
        except UpstreamError as problem:
            raise self._refusal(_renamed(problem.fields, names, self.exchange.codec), create) from None
        return table, [row[0] or "" for row in rows]

    def _refusal(self, fields: ErrorFields, text: Source) -> Refused:
        shown = self.attendant.translated(fields, text)
        if any(phrase in fields.text for phrase in _REACHES_OUT) and b"H" not in shown.fields:
            shown = ErrorFields({**shown.fields, b"H": _OWN_COLUMNS.encode()})
        return Refused(shown)


def _renamed(fields: ErrorFields, names: Sequence[str], codec: str) -> ErrorFields:
    """The error with the client's name for a column that no table can have (record, void: 42P16, 42P22)."""
    match = re.search(rb'"c(\d+)"', fields.fields.get(b"M", b""))
    if fields.sqlstate not in _NO_COLUMN or match is None:
        return fields
    name = f'"{names[int(match[1])]}"'.encode(codec, "replace")
    return ErrorFields({**fields.fields, b"M": fields.fields[b"M"].replace(match[0], name)})


def explained(lines: Sequence[str], source: Source, attendant: Attendant) -> Callable[[int, bytes], bytes]:
    """A rewrite of the replies to a filled statement: errors in terms of the client's text, `lines` behind the rows."""
    attendant.traced(source)

    def rewrite(kind: int, frame: bytes) -> bytes:
        if kind == ord("E"):
            return attendant.translated(messages.read_error(frame[5:]), source).encode()
        if kind == ord("C"):
            codec = attendant.exchange.codec
            return b"".join(messages.data_row([line.encode(codec, "replace")]) for line in lines) + frame
        return frame

    return rewrite
