"""The shapes that statements of ours take (docs/architecture.md): what a session needs to know to run one.

A statement is text turned into one of these, without waiting for anything.  The session sends `lookup` and the inner query on the
client's own connection, hands back what PostgreSQL said, and lets `open` decide what to do with the rows.

    Rewrite    other SQL in its place; the reply passes through, with the command tag changed
    Decorate   each row of the inner query gets columns of ours on its way to the client
    Summarise  the inner query's rows go through the workers, and what is counted meanwhile is the answer
    Collect    the inner query's rows go to one job of the workers; its outcome is registered, and one row is the answer
    Import     a table is made and filled with rows of files; there is no answer but how many
    Nested     a statement of PostgreSQL's with statements of ours inside: they become temporary tables that it reads
    Save       a CREATE VIEW with statements of ours inside, which is stored; SaveRows and Refresh are for materialized ones
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from thanoproxy.catalog.records import ModelRecord
from thanoproxy.sql.clauses import InnerQuery
from thanoproxy.statements.collected import Training, Transfer
from thanoproxy.wire.messages import Column
from thanoproxy.workers import jobs

__all__ = [
    "Added",
    "Applied",
    "Collect",
    "Context",
    "Decorate",
    "Decoration",
    "Explain",
    "Hole",
    "Import",
    "Nested",
    "Prepare",
    "Refresh",
    "Rewrite",
    "Save",
    "SaveRows",
    "Saving",
    "Seal",
    "Shape",
    "Summarise",
    "Summary",
    "applying",
    "has_job",
    "inside_out",
]

Verify = Callable[[ModelRecord], None]
"""Raises unless a catalogue row carries the seal of this installation."""


@dataclass(frozen=True, slots=True)
class Seal:
    """Signs and verifies catalogue rows; the key never reaches the database."""

    sign: Callable[[ModelRecord], ModelRecord]
    verify: Verify


@dataclass(frozen=True, slots=True)
class Rewrite:
    """`sql` runs in the statement's place; `tag` replaces its command tag where given.

    `places` tells where the client wrote the names that an error may be about.
    """

    sql: str
    tag: bytes | None = None
    places: tuple[tuple[str, int], ...] = ()


class Applied(ABC):
    """A model at work on rows.  `image_column` counts their columns from 0."""

    image_column: int
    artifact: str
    title: str
    """What is done with which model, as EXPLAIN shows it."""

    @abstractmethod
    def ready(self, classes: Sequence[str]) -> None:
        """The artifact is loaded; `classes` are its labels, vouched for by its content hash (the catalogue row's are not)."""

    @abstractmethod
    def image(self, value: bytes | None) -> jobs.Image:
        """The image as the row's field names it."""

    @abstractmethod
    def request(self, job: str, images: list[jobs.Image], *, bulk: bool, most: int) -> jobs.Predict:
        """What the workers are asked for a batch of rows; they compute `most` images for it, and leave the rows behind them."""

    @abstractmethod
    def warning(self) -> str | None:
        """What the client should know of the rows so far, if anything."""


class Added(NamedTuple):
    """A column that is added to rows: its name, and the OID of its type (`wire.values.SQL_NAMES`)."""

    name: str
    type_oid: int


class Decoration(Applied):
    """Adds columns to rows, in the `formats` that Bind asks for (none is text for all).  `left_out` counts the rows that it dropped."""

    formats: Sequence[int] = ()
    left_out: int = 0

    @abstractmethod
    def fields(self, reply: jobs.Predicted, index: int) -> tuple[bytes | None, ...] | None:
        """The added fields of the batch's row `index`, in the client's encoding; None leaves the row out.  Raises the row's own failure."""


class Decorate(ABC):
    """A statement that adds columns to the rows of its inner query; `skips` says that it may leave some of them out."""

    inner: InnerQuery

    @property
    @abstractmethod
    def skips(self) -> bool: ...

    @abstractmethod
    def must_keep_rows(self, where: str) -> None:
        """Raises `FeatureNotSupported` if it `skips`: `where` counts on a row for each one of the query."""

    @property
    @abstractmethod
    def added(self) -> tuple[Added, ...]:
        """The added columns."""

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(name for name, _ in self.added)

    @abstractmethod
    def lookup(self) -> str:
        """SQL that gives at most one row of one text column, for `open`."""

    @abstractmethod
    def columns(self, inner: Sequence[Column], codec: str) -> tuple[Column, ...]:
        """The columns added behind `inner`, in text format.  Raises `DuplicateColumn` or `UndefinedColumn`."""

    @abstractmethod
    def open(self, found: Sequence[str | None] | None, inner: Sequence[Column], codec: str, seal: Seal) -> Decoration:
        """Begin: `found` is the row of `lookup`, None where there was none.  Raises `UndefinedObject` and its like."""


class Summary(Applied):
    """Counts what a model makes of rows, for `role`.  `label_column` is counted as `image_column` is."""

    label_column: int
    model: str
    version: int
    role: str

    @abstractmethod
    def take(self, label: bytes | None, reply: jobs.Predicted, index: int) -> None:
        """Count the batch's row `index`, whose label it is.  Raises the row's own failure, or what is wrong with the label."""

    @abstractmethod
    def answer(self) -> Iterator[tuple[object, ...]]:
        """The values of the rows that answer."""

    @property
    @abstractmethod
    def accuracy(self) -> float | None:
        """The share of right ones among those counted so far."""


class Summarise(ABC):
    """A statement whose answer is about all rows of its inner query."""

    inner: InnerQuery

    @property
    @abstractmethod
    def answers(self) -> tuple[Added, ...]:
        """The columns of the answer."""

    @abstractmethod
    def lookup(self) -> str:
        """SQL that gives at most one row, for `open`."""

    @abstractmethod
    def columns(self, inner: Sequence[Column], codec: str) -> tuple[Column, ...]:
        """The same, in text format, where the inner query has these.  Raises `UndefinedColumn` and its like."""

    @abstractmethod
    def open(self, found: Sequence[str | None] | None, inner: Sequence[Column], codec: str, seal: Seal) -> Summary:
        """Begin, as `Decorate.open` does."""


class Collect(ABC):
    """A statement that feeds all rows of its inner query to one job, or (with `NO_ROWS`) is one job without rows."""

    inner: InnerQuery
    tag: bytes
    result: tuple[Column, ...]

    @abstractmethod
    def lookup(self) -> str:
        """SQL that gives one row, for `open`, and raises where the statement cannot succeed."""

    @abstractmethod
    def open(self, found: Sequence[str | None] | None, inner: Sequence[Column], codec: str, seal: Seal) -> Training | Transfer:
        """Begin.  Raises `UndefinedColumn` and its like."""


@dataclass(frozen=True, slots=True, eq=False)
class Import:
    """Rows of files for a table: `table` as the client wrote it, at the 0-based `start`, `name` without its schema.

    `position` is where the client wrote the `source`; `inner` has no rows, and stands for the statement while it is prepared.
    """

    table: str
    name: str
    start: int
    if_exists: str
    image_col: str | None
    label_col: str | None
    source: str
    position: int
    inner: InnerQuery


@dataclass(frozen=True, slots=True)
class Context:
    """The items of one WITH that a hole's query needs, as 0-based spans (start, end) of the client's text."""

    recursive: bool
    items: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Hole:
    """A statement of ours inside another, from character `start` to `end` of the client's text; `holes` lie inside its own query.

    `alias_at` is where an item of FROM needs a name that the client did not give it; `contexts` are the WITHs around, the outermost first.
    """

    start: int
    end: int
    shape: Decorate | Summarise | Rewrite
    holes: tuple[Hole, ...]
    alias_at: int | None
    contexts: tuple[Context, ...]


@dataclass(frozen=True, slots=True)
class Explain:
    """What an EXPLAIN asks for: `analyze` runs the statement, `lines` is the text format, which has room for lines of ours."""

    analyze: bool
    lines: bool


@dataclass(frozen=True, slots=True)
class Nested:
    """A statement of PostgreSQL's, `start` its 0-based offset in the client's text, with the outermost holes in it in order.

    `reads` says that it changes no data.
    """

    text: str
    start: int
    holes: tuple[Hole, ...]
    explain: Explain | None = None
    reads: bool = False

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def outlives(self) -> bool:
        """Whether what it makes still reads the holes' rows when it is over: a cursor, up to the end of the transaction."""
        return self.text[:7].upper() == "DECLARE"

    @property
    def needs_block(self) -> bool:
        """Whether it would be of no use outside a transaction block: a cursor that is not WITH HOLD."""
        before = self.text[: self.holes[0].start - self.start]
        return self.outlives and re.search(r"\bWITH\s+HOLD\b", before, re.IGNORECASE) is None


@dataclass(frozen=True, slots=True)
class Prepare:
    """PREPARE name AS a statement of ours: `head` is up to AS, `body` what follows, padded so that positions in it are the client's."""

    name: str
    head: str
    body: str
    shape: Nested


@dataclass(frozen=True, slots=True)
class Save:
    """CREATE VIEW `name` over a statement with holes; `option` is to be inserted at the 0-based `place` of the client's text."""

    statement: Nested
    name: str
    place: int
    option: str


@dataclass(frozen=True, slots=True)
class SaveRows:
    """CREATE MATERIALIZED VIEW over a statement with holes; without `data` it stays empty until it is refreshed."""

    statement: Nested
    data: bool


@dataclass(frozen=True, slots=True)
class Refresh:
    """REFRESH of what may be a materialized view with predictions: `name` as written in `text`, which is at `start`."""

    text: str
    start: int
    name: str
    data: bool


Saving = Save | SaveRows | Refresh
"""What PostgreSQL runs in its own way, once what it needs is there."""

Shape = Rewrite | Decorate | Summarise | Collect | Import | Nested | Saving


def inside_out(holes: Sequence[Hole]) -> Iterator[Hole]:
    """All of `holes` and those in them, each behind the ones inside it."""
    for hole in holes:
        yield from inside_out(hole.holes)
        yield hole


def applying(shape: Shape | Hole) -> Iterator[Decorate | Summarise]:
    """The statements in `shape` that need a model."""
    if isinstance(shape, Decorate | Summarise):
        yield shape
    elif isinstance(shape, Save | SaveRows):
        yield from applying(shape.statement)
    elif isinstance(shape, Nested):
        for hole in shape.holes:
            yield from applying(hole)
    elif isinstance(shape, Hole):
        if isinstance(shape.shape, Decorate | Summarise):
            yield shape.shape
        for hole in shape.holes:
            yield from applying(hole)


def has_job(shape: Shape) -> bool:
    """Whether others may want to see how far it is, and its client to hear of it."""
    return isinstance(shape, Collect) or any(isinstance(one, Summarise) for one in applying(shape))
