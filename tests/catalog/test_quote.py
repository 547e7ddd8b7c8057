from __future__ import annotations

import json
from collections.abc import Callable

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.databases import Database
from thanoproxy.catalog.quote import ascii_json, copy_line, identifier, literal

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@pytest.mark.parametrize("setting", ["on", "off"])
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_a_literal_is_its_text_in_every_session(
    module_database: Database, connect: Callable[..., psycopg.Connection], setting: str, text: str
) -> None:
    connection = connect(module_database.url)
    connection.execute(f"SET standard_conforming_strings = {setting}; SET backslash_quote = off")
    assert connection.execute(f"SELECT {literal(text)}").fetchone() == (text,)


@pytest.mark.parametrize("setting", ["on", "off"])
@pytest.mark.parametrize("name", ["a", 'A "b"', "größe", "猫\\😀", "a\\0041", "\\", "a'b\n", "é" * 31])
def test_an_identifier_is_its_name_in_every_session(
    module_database: Database, connect: Callable[..., psycopg.Connection], setting: str, name: str
) -> None:
    connection = connect(module_database.url, client_encoding="latin1")
    connection.execute(f"SET standard_conforming_strings = {setting}")
    assert identifier(name).isascii()
    connection.execute(f"CREATE TEMP TABLE t AS SELECT 1 AS {identifier(name)}")
    found = connection.execute("SELECT convert_to(attname, 'UTF8') FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum = 1")
    assert found.fetchone() == (name.encode(),)


def test_a_literal_is_ascii_and_has_no_nul() -> None:
    assert literal("a\0猫😀'\\\n") == r"E'a\ufffd\u732b\U0001f600''\\\u000a'"


@pytest.mark.parametrize("encoding", ["latin1", "sjis", "win1251"])
def test_a_literal_passes_where_the_client_has_no_such_character(
    module_database: Database, connect: Callable[..., psycopg.Connection], encoding: str
) -> None:
    connection = connect(module_database.url, client_encoding=encoding)
    assert connection.execute(f"SELECT pg_catalog.octet_length({literal('猫é😀')})").fetchone() == (9,)


@given(st.recursive(st.none() | TEXTS | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner)))
def test_json_stays_the_same_document_in_ascii(value: object) -> None:
    text = ascii_json(json.dumps(value, ensure_ascii=False))
    assert text.isascii()
    assert json.loads(text) == value


def test_copy_lines_escape_what_copy_would_read() -> None:
    assert copy_line("a\tb", None, "c\\\n\r") == b"a\\tb\t\\N\tc\\\\\\n\\r\n"
