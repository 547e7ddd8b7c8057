"""COPY table OPTIONS (…) FROM 'directory or file': rows of files as rows of a table.

It becomes a DO block that makes the table, and PostgreSQL's own COPY … FROM STDIN with what is read of the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from thanoproxy.catalog.quote import identifier, literal
from thanoproxy.errors import DuplicateColumn
from thanoproxy.sql.clauses import Cursor, InnerQuery
from thanoproxy.sql.source import Source
from thanoproxy.statements.collected import NO_ROWS
from thanoproxy.statements.options import IMAGE_COLUMN, LABEL_COLUMN, Chosen, Rule, read_options
from thanoproxy.statements.shapes import Import

__all__ = ["LATER", "RULES", "filling", "making", "parse"]

RULES = {
    "if_exists": Rule("text", choices=("fail", "replace", "append")),
    **IMAGE_COLUMN,
    **LABEL_COLUMN,
}
LATER = frozenset[str]()
_USAGE = "Write COPY table OPTIONS (if_exists='append') FROM 'directory or file'."
_OWN = "PostgreSQL's own COPY has no OPTIONS."


class Field(Protocol):
    """A column of the file."""

    @property
    def name(self) -> str: ...

    @property
    def type(self) -> str: ...


class Format(Protocol):
    """How its rows are written."""

    @property
    def kind(self) -> str: ...

    @property
    def delimiter(self) -> str: ...

    @property
    def header(self) -> bool: ...


def parse(cursor: Cursor) -> Import:
    """Behind COPY; what follows is known to be a name and OPTIONS."""
    start = cursor.position - 1
    name = cursor.identifier("the name of a table")
    while cursor.accept("."):
        name = cursor.identifier("the name of a table")
    end = cursor.tokens[cursor.at - 1].end
    if cursor.accept("("):
        cursor.at -= 1
        raise cursor.error("OPTIONS", "The columns are those of the file, by their names.")
    options = read_options(cursor.options(), RULES, LATER, "COPY … OPTIONS")
    _check(options)
    cursor.expect("FROM", f"{_USAGE} {_OWN}")
    position = cursor.position
    source = cursor.string("the name of a directory or file in quotes", f"{_USAGE} {_OWN}")
    cursor.end("OPTIONS come before FROM.")
    return Import(
        table=cursor.text[start:end],
        name=name,
        start=start,
        if_exists=options.get("if_exists", "fail"),
        image_col=options.get("image_col"),
        label_col=options.get("label_col"),
        source=source,
        position=position,
        inner=InnerQuery(NO_ROWS, position - 1),
    )


def _check(options: Chosen) -> None:
    image, label = options.get("image_col", "image"), options.get("label_col", "label")
    if image == label:
        position = options.position("label_col") or options.position("image_col")
        raise DuplicateColumn(f'the columns of the images and of their labels are both called "{image}"', position=position)


def making(shape: Import, fields: Sequence[Field]) -> str:
    """SQL that leaves a table of the name to be filled, or fails.  A name is looked up as in any statement: temporary tables first."""
    columns = ", ".join(f"{identifier(field.name)} {field.type}" for field in fields)
    name = literal(shape.table)
    body = f"""
DECLARE
  existing pg_catalog.regclass := pg_catalog.to_regclass({name});
  place pg_catalog.text := {name};
BEGIN
  IF existing IS NOT NULL THEN
    {_WHERE_IT_EXISTS[shape.if_exists].format(taken=literal(f'relation "{shape.name}" already exists'))}
  END IF;
  EXECUTE pg_catalog.concat('CREATE TABLE ', place, {literal(f" ({columns})")});
END"""
    return f"DO {literal(body)}"


_WHERE_IT_EXISTS = {
    "fail": """RAISE EXCEPTION USING ERRCODE = '42P07', MESSAGE = {taken},
      HINT = 'OPTIONS (if_exists=''append'') adds to it, OPTIONS (if_exists=''replace'') makes it anew.';""",
    "append": "RETURN;",
    # In the schema where it was, so that the name means the new one.
    "replace": """SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) INTO STRICT place
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
      WHERE c.oid OPERATOR(pg_catalog.=) existing::pg_catalog.oid;
    EXECUTE pg_catalog.concat('DROP TABLE ', place);""",
}


def filling(shape: Import, fields: Sequence[Field], format_: Format) -> Source:
    """The COPY that takes the rows."""
    source = Source("COPY ")
    source.add(shape.table, shape.start)
    columns = ", ".join(identifier(field.name) for field in fields)
    source.add(f" ({columns}) FROM STDIN (FORMAT {format_.kind}, ENCODING 'UTF8'{_csv(fields, format_)})")
    return source


def _csv(fields: Sequence[Field], format_: Format) -> str:
    if format_.kind != "csv":
        return ""
    written = f", DELIMITER {literal(format_.delimiter)}, HEADER {'true' if format_.header else 'false'}"
    # What is no text is NULL, too, where somebody put quotes around nothing.
    forced = [identifier(field.name) for field in fields if field.type != "pg_catalog.text"]
    return written + (f", FORCE_NULL ({', '.join(forced)})" if forced else "")
