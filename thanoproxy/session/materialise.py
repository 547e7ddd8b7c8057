"""Statements of ours inside PostgreSQL's own: each becomes two temporary tables, and the statement around it reads those.

    rows          CREATE TEMPORARY TABLE … AS the hole's query: the server keeps its rows, whatever their types
    predictions   the row's place (ctid) and our columns, copied in once the workers have answered
    in its place  SELECT the columns, the predictions FROM rows JOIN predictions, in the order of the rows

So the rest of the statement is PostgreSQL's alone: joins, groups, cursors, COPY, INSERT, row limits, command tags.  The tables go with
the transaction, or before, where the statement is over (`Leftovers`).  Only places, images and predictions pass through us; the
predictions wait in a file that is bounded by the disk, since a connection that sends rows cannot take a COPY.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterator, Sequence
from typing import IO, TYPE_CHECKING
from uuid import uuid4

from thanoproxy.errors import FeatureNotSupported, SyntaxProblem
from thanoproxy.session.decorate import RowStream
from thanoproxy.session.exchange import Bound
from thanoproxy.session.execute import pump
from thanoproxy.sql.source import Source
from thanoproxy.statements.narrow import EVERYTHING, Need, needs
from thanoproxy.statements.render import described, filled, hole_query, narrowed, quoted, rewritten, unpredicted
from thanoproxy.statements.shapes import Decorate, Decoration, Hole, Nested, Rewrite
from thanoproxy.wire import messages
from thanoproxy.wire.messages import ErrorFields
from thanoproxy.wire.pipeline import UpstreamError
from thanoproxy.wire.values import field_at

if TYPE_CHECKING:
    from thanoproxy.session.attend import Attendant

__all__ = ["Refused", "materialise"]

_IN_MEMORY = 4 << 20
_PART = 1 << 16
_READ_ONLY = "25006"
_NO_COLUMN = ("42P16", "42P22")
_REACHES_OUT = ("missing FROM-clause entry", "invalid reference to FROM-clause entry")
_OWN_COLUMNS = "The query of a PREDICT runs once, by itself: it cannot name columns of the query around it."
_IN_READ_ONLY = FeatureNotSupported(
    "in a read-only transaction PREDICT must be a statement of its own", hint="Inside other SQL it needs temporary tables."
)
_ROWS = b"thanoproxy rows"
_CLOSE_ROWS = messages.close(b"P", _ROWS) + messages.close(b"S", _ROWS)


class Refused(Exception):
    """An error of the server's about text of ours, in terms of the client's text."""

    def __init__(self, fields: ErrorFields) -> None:
        super().__init__(f"{fields.sqlstate}: {fields.text}")
        self.fields = fields


async def materialise(attendant: Attendant, statement: Nested, bound: Bound) -> tuple[Source, list[str]]:
    """The statement over temporary tables, and the tables.  Raises `Refused` or `ThanoError`."""
    work = _Materialisation(attendant, statement, bound)
    for hole in statement.holes:
        await work.run(hole)
    end = statement.start + len(statement.text)
    return filled(statement, statement.start, end, statement.holes, work.fill), work.tables


class _Materialisation:
    """One execution of a statement with holes."""

    def __init__(self, attendant: Attendant, statement: Nested, bound: Bound) -> None:
        self.attendant = attendant
        self.exchange = attendant.exchange
        self.statement = statement
        self.bound = bound
        self.tables: list[str] = []
        added = [() if isinstance(hole.shape, Rewrite) else hole.shape.names for hole in statement.holes]
        self._needs = dict(zip(statement.holes, needs(described(statement).text, added), strict=True))
        self._sources: dict[Hole, Source] = {}

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
            self._sources[hole] = await self._predicted(hole.shape, query, self._needs.get(hole, EVERYTHING))
        except UpstreamError as problem:
            raise self._refusal(problem.fields, query) from None

    async def _predicted(self, shape: Decorate, query: Source, need: Need) -> Source:
        exchange, services = self.exchange, self.attendant.services
        columns = await exchange.columns(query.text, self.bound.types)
        if columns is None:
            raise SyntaxProblem("the query after AS returns no rows", position=shape.inner.start + 1)
        shape.columns(columns, exchange.codec)
        names = [column.name.decode(exchange.codec, "replace") for column in columns]
        query = narrowed(query, need, names)
        if not need.predictions:
            return unpredicted(shape, query)
        found = await exchange.ask(shape.lookup())
        decoration = shape.open(found[0] if found else None, columns, exchange.codec, services.seal)
        table = await self._keep(query, names)
        added = ", ".join(f"p{i} pg_catalog.text" for i in range(len(shape.names)))
        self.tables.append(f"{table}_p")
        await exchange.ask(f"CREATE TEMPORARY TABLE {table}_p (place pg_catalog.tid, {added}) ON COMMIT DROP")
        with tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(services.spool)) as file:
            sheet = _Sheet(file)
            await self._read(table, decoration, sheet)
            await exchange.copy_in(f"COPY pg_temp.{table}_p FROM STDIN", sheet.parts())
        return _joined(table, names, shape.names)

    async def _keep(self, query: Source, names: Sequence[str]) -> str:
        """A temporary table of the query's rows."""
        table = f"thanoproxy_{uuid4().hex}"
        columns = ", ".join(f"c{i}" for i in range(len(names)))
        create = Source()
        create.add(f"CREATE TEMPORARY TABLE {table} ({columns}) ON COMMIT DROP AS ")
        create.extend(query)
        try:
            await self.exchange.ask(create.text, self.bound)
        except UpstreamError as problem:
            raise self._refusal(_renamed(problem.fields, names, self.exchange.codec), create) from None
        self.tables.append(table)
        return table

    async def _read(self, table: str, decoration: Decoration, sheet: _Sheet) -> None:
        """Predict the rows of `table`; each row that is read has two fields: its place and its image."""
        exchange = self.exchange
        sql = f"SELECT q.ctid, q.c{decoration.image_column} FROM pg_temp.{table} q"  # noqa: S608
        decoration.image_column = 1
        begin = messages.parse(messages.Parse(_ROWS, sql.encode("ascii"))) + messages.bind(messages.Bind(_ROWS, _ROWS, b""))
        await exchange.swallow(_CLOSE_ROWS + begin, b"312", 4)
        stream = RowStream(decoration, self.attendant.services.pool, exchange.upstream, sheet, _line)
        await pump(exchange, stream, _ROWS, 0, self.attendant.stop)
        await exchange.swallow(_CLOSE_ROWS, b"3", 2)

    def _refusal(self, fields: ErrorFields, text: Source) -> Refused:
        if fields.sqlstate == _READ_ONLY:
            # As the server's own error: it has failed already.
            return Refused(messages.read_error(messages.error_response(_IN_READ_ONLY, encoding=self.exchange.codec)[5:]))
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


class _Sheet:
    """Where predictions wait, as lines of COPY's text format.  A `RowStream` writes to it as to a client that never falls behind."""

    full = False

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, data: bytes) -> None:
        self._file.write(data)

    async def drained(self) -> None:
        """A file always has room."""

    async def parts(self) -> AsyncIterator[bytes]:
        """What was written, from the beginning."""
        self._file.seek(0)
        while part := self._file.read(_PART):
            yield part


def _line(row: bytes, added: Sequence[bytes | None]) -> bytes:
    place = field_at(row, 0)
    assert place is not None, "every row of a table has a place"
    return b"\t".join((place, *(_escaped(value) for value in added))) + b"\n"


def _escaped(value: bytes | None) -> bytes:
    """A field of COPY's text format (sql-copy.html).  In the encodings that a client can have, these bytes are these characters."""
    if value is None:
        return b"\\N"
    return value.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r").replace(b"\t", b"\\t")


def _joined(table: str, names: Sequence[str], added: Sequence[str]) -> Source:
    columns = [f"q.c{i} AS {quoted(name)}" for i, name in enumerate(names)] + [f"p.p{i} AS {quoted(name)}" for i, name in enumerate(added)]
    source = Source()
    source.add(
        f"SELECT {', '.join(columns)} FROM pg_temp.{table} q JOIN pg_temp.{table}_p p "  # noqa: S608
        "ON p.place OPERATOR(pg_catalog.=) q.ctid ORDER BY q.ctid"
    )
    return source
