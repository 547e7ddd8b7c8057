"""COPY … OPTIONS as text: what is ours, what is wrong with it, and what stays PostgreSQL's."""

from __future__ import annotations

from typing import NamedTuple

import pglast
import pytest

from thanoproxy.errors import ThanoError
from thanoproxy.statements import recognise
from thanoproxy.statements.copy_files import filling, making
from thanoproxy.statements.shapes import Import


class Field(NamedTuple):
    name: str
    type: str = "pg_catalog.text"


class Format(NamedTuple):
    kind: str
    delimiter: str = ","
    header: bool = False


def understood(text: str) -> Import:
    [part] = recognise(text) or []
    assert isinstance(part.shape, Import)
    return part.shape


@pytest.mark.parametrize(
    ("text", "table", "if_exists", "source"),
    [
        ("COPY t OPTIONS () FROM 'a'", "t", "fail", "a"),
        ("copy t options (if_exists='REPLACE',) from 'a b' ;", "t", "replace", "a b"),
        ("COPY s . t OPTIONS (if_exists='append') FROM E'a\\x62'", "s . t", "append", "ab"),
        ("COPY d.s.\"T t\" OPTIONS () FROM 'a'", 'd.s."T t"', "fail", "a"),
        ("COPY options OPTIONS () FROM 'a'", "options", "fail", "a"),
        ("COPY binary.t OPTIONS () FROM 'a'", "", "", ""),
        ("/* x */ COPY Größe OPTIONS () FROM 'ä' -- x", "Größe", "fail", "ä"),
    ],
)
def test_understood(text: str, table: str, if_exists: str, source: str) -> None:
    if not table:  # BINARY is no name for a table
        assert recognise(text) is None
        return
    shape = understood(text)
    assert (shape.table, shape.if_exists, shape.source) == (table, if_exists, source)
    assert text[shape.start : shape.start + len(table)] == table
    assert text[shape.position - 1] in "'E"


def test_names_of_columns() -> None:
    shape = understood("COPY t OPTIONS (image_col='Bild', label_col=\"Art\") FROM 'a'")
    assert (shape.image_col, shape.label_col) == ("Bild", "Art")


def test_one_of_several_statements() -> None:
    parts = recognise("SELECT 1; COPY t OPTIONS () FROM 'a'; COPY t FROM STDIN")
    assert [type(part.shape) for part in parts or []] == [type(None), Import, type(None)]


BAD = [
    ("COPY t OPTIONS", 'expected "("', 15),
    ("COPY t OPTIONS FROM 'a'", 'expected "("', 16),
    ("COPY t OPTIONS ()", "expected FROM", 18),
    ("COPY t OPTIONS () TO 'a'", "expected FROM", 19),
    ("COPY t OPTIONS () FROM", "in quotes", 23),
    ("COPY t OPTIONS () FROM STDIN", "in quotes", 24),
    ('COPY t OPTIONS () FROM "a"', "in quotes", 24),
    ("COPY t OPTIONS () FROM 'a' WITH (FORMAT csv)", "the end of the statement", 28),
    ("COPY t OPTIONS (if_exists='skip') FROM 'a'", "must be 'fail' or 'replace' or 'append'", 27),
    ("COPY t OPTIONS (if_exists=true) FROM 'a'", "must be 'fail' or 'replace' or 'append'", 27),
    ("COPY t OPTIONS (if_exist='fail') FROM 'a'", 'unknown option "if_exist"', 17),
    ("COPY t OPTIONS (if_exists='fail', if_exists='fail') FROM 'a'", "given twice", 35),
    ("COPY t OPTIONS (image_col='label') FROM 'a'", "both called", 27),
    ("COPY t OPTIONS (if_exists=$1) FROM 'a'", "parameters are not supported", 27),
    ("COPY t (a, b) OPTIONS () FROM 'a'", 'at or near "(": expected OPTIONS', 8),
    ("COPY 't' OPTIONS () FROM 'a'", "the name of a table", 6),
]


@pytest.mark.parametrize(("text", "message", "position"), BAD, ids=[case[0] for case in BAD])
def test_mistakes(text: str, message: str, position: int) -> None:
    with pytest.raises(ThanoError) as caught:
        recognise(text)
    assert message in caught.value.message
    assert caught.value.position == position


POSTGRESQLS = [
    "COPY t FROM STDIN",
    "COPY t FROM STDIN WITH (FORMAT csv, HEADER) -- OPTIONS",
    "COPY t (options) FROM STDIN",
    "COPY t(options) FROM '/tmp/options'",
    "COPY t (id, options) TO STDOUT",
    "COPY options FROM STDIN",
    "COPY options (options) FROM STDIN",
    "COPY public.options FROM STDIN",
    "COPY options.options FROM PROGRAM 'OPTIONS'",
    'COPY "options" FROM STDIN',
    'COPY "OPTIONS" ("OPTIONS") TO STDOUT',
    "COPY BINARY options FROM STDIN",
    "COPY BINARY public.options TO STDOUT",
    "COPY (TABLE options) TO STDOUT",
    "COPY (SELECT options FROM options) TO STDOUT",
    "COPY (SELECT 1 AS options) TO '/tmp/x' WITH (FORMAT csv)",
    "COPY t FROM 'OPTIONS' DELIMITERS ','",
    "COPY options FROM STDIN WHERE options = 'OPTIONS'",
    "CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (a 'b')",
]


@pytest.mark.parametrize("text", POSTGRESQLS)
def test_what_is_postgresqls(text: str) -> None:
    assert recognise(text) is None
    pglast.parse_sql(text)


FIELDS = [Field('a"b'), Field("größe", "pg_catalog.int8"), Field("a\\b")]


@pytest.mark.parametrize("if_exists", ["fail", "replace", "append"])
def test_the_block_that_makes_the_table(if_exists: str) -> None:
    shape = understood(f"COPY \"O'Brien\\\" OPTIONS (if_exists='{if_exists}') FROM 'a'")
    [raw] = pglast.parse_sql(making(shape, FIELDS))
    assert isinstance(raw.stmt, pglast.ast.DoStmt)
    assert making(shape, FIELDS).isascii()  # it means the same in every client_encoding


def test_the_copy_that_fills_it() -> None:
    shape = understood("SELECT 1; COPY s.t OPTIONS () FROM 'a'".partition("; ")[2])
    text = filling(shape, FIELDS, Format("csv", "\t", header=True)).text
    assert text == (
        'COPY s.t ("a""b", U&"gr\\+0000f6\\+0000dfe", "a\\b") FROM STDIN (FORMAT csv, ENCODING \'UTF8\', DELIMITER E\'\\u0009\', '
        'HEADER true, FORCE_NULL (U&"gr\\+0000f6\\+0000dfe"))'
    )
    [raw] = pglast.parse_sql(text)
    assert [name.sval for name in raw.stmt.attlist] == ['a"b', "größe", "a\\b"]
    assert filling(shape, FIELDS[:1], Format("text")).text == 'COPY s.t ("a""b") FROM STDIN (FORMAT text, ENCODING \'UTF8\')'
