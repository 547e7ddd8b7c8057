"""Statements and portals of ours that exist on one connection, and what is sent upstream in their place.

Upstream they have the client's own names, so the server decides about duplicates (42P05), unknown names (26000, 34000), DEALLOCATE
and DISCARD.  Our side only remembers what to do with the replies, and since SQL can drop a name behind our back (DEALLOCATE in a DO
block gives no tag), the text upstream ends with a marker that is looked for before a named statement is used again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from uuid import uuid4

from thanoproxy.sql.source import Source
from thanoproxy.statements.render import described
from thanoproxy.statements.saved import saved
from thanoproxy.statements.shapes import Collect, Decorate, Decoration, Import, Nested, Refresh, Rewrite, Save, SaveRows, Shape, Summarise
from thanoproxy.wire.messages import Column, format_code

__all__ = ["PortalOfOurs", "StatementOfOurs", "bind_formats", "with_formats"]


@dataclass(slots=True)
class StatementOfOurs:
    """A prepared statement.  `inner` is None until the server has described the inner query; `body` is the client's own text,
    with views written out that hold predictions (`expansion`); `given` is what is prepared, where that took questions to the server."""

    shape: Shape
    codec: str
    marker: str = field(default_factory=lambda: f"/* thanoproxy {uuid4().hex} */")
    inner: tuple[Column, ...] | None = None
    body: str = ""
    expansion: Source | None = None
    given: Source | None = None

    @property
    def text(self) -> bytes:
        """What is prepared upstream."""
        # A comment to the end of the line would swallow the marker.
        return f"{self.source.text}\n{self.marker}".encode(self.codec)

    @property
    def source(self) -> Source:
        """What the server judges, and which of it is the client's own text, for the positions in its errors."""
        source = self.given or _source(self.shape)
        source.outer = self.expansion
        return source

    def added(self) -> tuple[Column, ...]:
        """The columns of ours behind the inner ones."""
        assert self.inner is not None, "the inner query is described before its columns are asked for"
        return self.shape.columns(self.inner, self.codec) if isinstance(self.shape, Decorate) else ()

    def check(self) -> None:
        """Raises where the inner columns are not those that the statement needs."""
        if isinstance(self.shape, Decorate | Summarise):
            assert self.inner is not None, "the inner query is described before"
            self.shape.columns(self.inner, self.codec)

    def described(self, columns: Sequence[Column], formats: Sequence[int] = ()) -> tuple[Column, ...]:
        """The columns a client is told of, given the inner ones; `formats` as in Bind."""
        self.inner = tuple(columns)
        if isinstance(self.shape, Collect | Summarise):
            result = self.shape.result if isinstance(self.shape, Collect) else self.shape.columns(columns, self.codec)
            return tuple(_formatted(column, formats, i) for i, column in enumerate(result))
        count = len(columns)
        return (*columns, *(_formatted(column, formats, count + i) for i, column in enumerate(self.added())))


def _source(shape: Shape) -> Source:
    if isinstance(shape, Nested):
        return described(shape)
    if isinstance(shape, Save):
        return saved(shape)
    assert not isinstance(shape, SaveRows | Refresh), "these are given"
    return Source(shape.sql) if isinstance(shape, Rewrite) else Source(shape.inner.text, shape.inner.start)


@dataclass(slots=True)
class PortalOfOurs:
    """A bound statement; `decoration` is set at its first Execute, so that a suspended portal keeps its model's version.

    `announce` says that the client is in the simple protocol and has seen no RowDescription yet; `answer` is what is still to be sent
    of the rows of a statement that summarises.
    """

    statement: StatementOfOurs
    formats: tuple[int, ...] = ()
    inner: tuple[Column, ...] = ()
    decoration: Decoration | None = None
    announce: bool = False
    answer: Iterator[bytes] | None = None

    @property
    def added_formats(self) -> tuple[int, ...]:
        """What Bind said of the columns of ours."""
        return self.formats if len(self.formats) <= 1 else self.formats[len(self.inner) :]


def bind_formats(statement: StatementOfOurs, formats: tuple[int, ...]) -> tuple[int, ...]:
    """The result formats for the inner query.

    One code, or none, goes for all columns; a code for each column must lose those of the added ones, since the server counts
    (08P01).  A statement that collects or summarises reads its rows as text, whatever the client wants of the answer.
    """
    if isinstance(statement.shape, Collect | Import | Summarise):
        return ()
    if not isinstance(statement.shape, Decorate) or len(formats) <= 1 or statement.inner is None:
        return formats
    inner = len(statement.inner)
    return formats[:inner] if len(formats) == inner + len(statement.added()) else formats


def with_formats(ours: StatementOfOurs, formats: tuple[int, ...]) -> tuple[Column, ...]:
    """The inner columns as a Bind with these result formats makes them."""
    return tuple(_formatted(column, formats, i) for i, column in enumerate(ours.inner or ()))


def _formatted(column: Column, formats: Sequence[int], index: int) -> Column:
    return replace(column, format=format_code(formats, index))
