"""The text around statements of ours: with something else in their place, and with the way back to the client's positions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from thanoproxy.catalog.quote import literal
from thanoproxy.sql.source import Source
from thanoproxy.statements.narrow import MARK, Need
from thanoproxy.statements.shapes import Added, Decorate, Hole, Nested, Rewrite, Summarise
from thanoproxy.wire.values import SQL_NAMES, TEXT, array_text, encode_value

__all__ = [
    "answered",
    "described",
    "filled",
    "hole_query",
    "in_order",
    "inner_span",
    "kept_answer",
    "narrowed",
    "predicted",
    "quoted",
    "rewritten",
    "unpredicted",
]

Fill = Callable[[Hole], Source]

UNPREDICTED = "thanosql.unpredicted()"
"""What fails when it is run, and is text until then."""


def quoted(name: str) -> str:
    """`name` as a delimited identifier (sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS)."""
    return '"' + name.replace('"', '""') + '"'


def described(statement: Nested) -> Source:
    """The statement as PostgreSQL can describe it before anything has run: same columns, same parameters.  To run it is an error."""

    def fill(hole: Hole) -> Source:
        if isinstance(hole.shape, Rewrite):
            return rewritten(hole.shape)
        query = filled(statement, *inner_span(hole), hole.holes, fill)
        alias = f"{MARK}{statement.holes.index(hole)}" if hole in statement.holes else "q"
        return unpredicted(hole.shape, query, alias, UNPREDICTED)

    return filled(statement, statement.start, statement.end, statement.holes, fill)


def unpredicted(shape: Decorate | Summarise, query: Source, alias: str = "q", value: str = "NULL") -> Source:
    """The rows of `query`, with `value` for predictions; or one row of an answer about them, also where there are none."""
    if isinstance(shape, Summarise):
        columns = ", ".join(f"{_typed(value, type_oid)} AS {quoted(name)}" for name, type_oid in shape.answers)
        # In a condition, where a FOR UPDATE around it does not reach.
        source = Source(f"SELECT {columns} WHERE (SELECT pg_catalog.count(*) FROM (")  # noqa: S608
        source.extend(query)
        source.add("\n) AS q) IS NOT NULL")
        return source
    added = ", ".join(f"{_typed(value, type_oid)} AS {quoted(name)}" for name, type_oid in shape.added)
    source = Source(f"SELECT {alias}.*, {added} FROM (")  # noqa: S608
    source.extend(query)
    source.add(f"\n) AS {alias}")
    return source


def _typed(value: str, type_oid: int) -> str:
    return value if value == UNPREDICTED and type_oid == TEXT else f"{value}::{SQL_NAMES[type_oid]}"


def predicted(table: str, added: Sequence[Added], names: Sequence[str] | None = None) -> Source:
    """The rows of `table`, in their order, with the predictions that lie beside it.

    With `names`, the table's columns are c0, c1, … and get these names; without, they have their own.
    """
    columns = ["q.*"] if names is None else [f"q.c{i} AS {quoted(name)}" for i, name in enumerate(names)]
    columns += [f"p.p{i} AS {quoted(name)}" for i, (name, _) in enumerate(added)]
    return in_order(
        f"SELECT {', '.join(columns)} FROM pg_temp.{table} q JOIN pg_temp.{table}_p p "  # noqa: S608
        "ON p.place OPERATOR(pg_catalog.=) q.ctid ORDER BY q.ctid"
    )


def in_order(query: str) -> Source:
    """A query with an ORDER BY, for a place where another one may follow: PostgreSQL refuses `(… ORDER BY a) ORDER BY b`."""
    return Source(f"SELECT * FROM ({query}) AS q")  # noqa: S608


def answered(columns: Sequence[Added], rows: Iterable[Sequence[object]]) -> Source:
    """The rows themselves, in their order: an array for each column, which is read faster than VALUES and stands where no parameter may."""
    functions = ", ".join(_array(type_oid, values) for (_, type_oid), values in zip(columns, zip(*rows, strict=True), strict=True))
    selected = ", ".join(f"u.c{i} AS {quoted(name)}" for i, (name, _) in enumerate(columns))
    names = ", ".join(f"c{i}" for i in range(len(columns)))
    return in_order(f"SELECT {selected} FROM ROWS FROM ({functions}) WITH ORDINALITY AS u({names}, n) ORDER BY u.n")  # noqa: S608


def _array(type_oid: int, values: Sequence[object]) -> str:
    # Each value once: a confusion matrix repeats them.
    fields = {value: encode_value(value, type_oid, 0, "utf-8") for value in set(values)}
    items = array_text([fields[value] for value in values])
    return f"pg_catalog.unnest({literal(items.decode())}::{SQL_NAMES[type_oid]}[])"


def kept_answer(table: str, columns: Sequence[Added]) -> Source:
    """The rows of an answer that lie in `table`."""
    selected = ", ".join(f"q.p{i} AS {quoted(name)}" for i, (name, _) in enumerate(columns))
    return in_order(f"SELECT {selected} FROM pg_temp.{table} q ORDER BY q.ctid")  # noqa: S608


def narrowed(query: Source, need: Need, columns: Sequence[str]) -> Source:
    """The rows of `query` that are needed; `columns` are all of its columns' names."""
    clauses = need.clauses({name for name, times in Counter(columns).items() if times == 1})
    if not clauses:
        return query
    source = Source("SELECT * FROM (")
    source.extend(query)
    source.add(f"\n) AS {quoted(need.alias)}{clauses}")
    return source


def hole_query(statement: Nested, hole: Hole, fill: Fill) -> Source:
    """The hole's own query, which runs before the statement around it does, with the WITH items that it names."""
    query = filled(statement, *inner_span(hole), hole.holes, fill)
    if not hole.contexts:
        return query
    source = Source()
    for context in hole.contexts:
        source.add("WITH RECURSIVE " if context.recursive else "WITH ")
        for i, (start, end) in enumerate(context.items):
            if i:
                source.add(", ")
            source.extend(filled(statement, start, end, statement.holes, fill))
        source.add(" SELECT * FROM (")
    source.extend(query)
    source.add("\n) AS q" * len(hole.contexts))
    return source


def filled(statement: Nested, start: int, end: int, holes: Sequence[Hole], fill: Fill) -> Source:
    """The client's text from `start` to `end`, with the outermost that lie in it, of `holes` and those inside them, filled."""
    source, at = Source(), start

    def copy(until: int) -> None:
        nonlocal at
        source.add(statement.text[at - statement.start : until - statement.start], at)
        at = until

    for n, hole in enumerate(_within(holes, start, end)):
        copy(hole.start)
        source.extend(fill(hole))
        at = hole.end
        if hole.alias_at is not None and hole.alias_at <= end:
            copy(hole.alias_at)
            source.add(f" AS thanoproxy_{n}")
    copy(end)
    return source


def _within(holes: Sequence[Hole], start: int, end: int) -> Iterator[Hole]:
    for hole in holes:
        if start <= hole.start and hole.end <= end:
            yield hole
        else:
            yield from _within(hole.holes, start, end)


def rewritten(shape: Rewrite) -> Source:
    return in_order(shape.sql)


def inner_span(hole: Hole) -> tuple[int, int]:
    """Where the hole's query stands in the client's text."""
    assert not isinstance(hole.shape, Rewrite), "a rewrite has no query"
    return hole.shape.inner.start, hole.shape.inner.start + len(hole.shape.inner.text)
