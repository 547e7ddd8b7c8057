"""The catalogue's SQL as a client's session runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.catalog.conftest import make_record
from tests.databases import Database
from thanoproxy.catalog import store
from thanoproxy.errors import InternalError, InvalidImage, NotInstalled

Connect = Callable[..., psycopg.Connection]

# A session that means harm: everything that unqualified names and operators could mean is taken by its own.
HOSTILE = """
CREATE SCHEMA evil;
CREATE FUNCTION evil.encode(bytea, text) RETURNS text LANGUAGE sql AS $$ SELECT 'evil'::text $$;
CREATE FUNCTION evil.json_build_object(VARIADIC "any") RETURNS json LANGUAGE internal AS 'json_build_object';
CREATE FUNCTION evil.wrong(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.wrong);
CREATE DOMAIN evil.text AS pg_catalog.text CHECK (false);
CREATE DOMAIN evil.jsonb AS pg_catalog.jsonb CHECK (false);
SET search_path = evil, pg_catalog;
SET standard_conforming_strings = off;
SET escape_string_warning = off;
SET bytea_output = escape;
SET DateStyle = 'SQL, DMY';
"""


def register(connection: psycopg.Connection, **changes: Any) -> None:
    connection.execute(store.register_model(make_record(**changes)))


def found(connection: psycopg.Connection, name: str, version: int | None = None) -> tuple[str, int] | None:
    row = connection.execute(store.find_model(name, version)).fetchone()
    if row is None:
        return None
    record = store.read_model(row[0])
    return record.name, record.version


def test_what_was_registered_is_found(any_database: Database, connect: Connect) -> None:
    record = make_record(name="Mü'\\ 猫😀", classes=("b", "a'\"", " ü", ""), options={"x": [1, None, "\n"]}, images=2**40)
    connection = connect(any_database.url)
    connection.execute(store.register_model(record))
    [(payload,)] = connection.execute(store.find_model(record.name)).fetchall()
    assert store.read_model(payload) == record


@pytest.mark.parametrize("encoding", ["latin1", "sjis"])
def test_a_hostile_session_gets_the_same(any_database: Database, connect: Connect, encoding: str) -> None:
    record = make_record(name="猫'\\", classes=("ü", "犬"))
    connection = connect(any_database.url, client_encoding=encoding)
    for statement in HOSTILE.strip().split("\n"):
        connection.execute(statement)
    [reserved] = connection.execute(store.reserve_model(record.name, False)).fetchall()
    assert reserved == ("postgres", "1")
    connection.execute(store.register_model(record))
    connection.execute(store.register_model(make_record(name="other")))
    [(payload,)] = connection.execute(store.find_model(record.name)).fetchall()
    assert store.read_model(payload) == record
    connection.execute(store.drop_model(record.name, False))
    assert connection.execute(store.find_model(record.name)).fetchall() == []
    assert len(connection.execute(store.list_models()).fetchall()) == 1


def test_the_latest_version_is_found_unless_one_is_named(database: Database, connect: Connect) -> None:
    connection = connect(database.url)
    for version in (1, 2, 10):
        register(connection, version=version)
    assert found(connection, "pets") == ("pets", 10)
    assert found(connection, "pets", 2) == ("pets", 2)
    assert found(connection, "pets", 3) is None
    assert found(connection, "PETS") is None


def test_a_model_obeys_savepoint_and_rollback(database: Database, connect: Connect) -> None:
    connection, other = connect(database.url), connect(database.url)
    connection.execute("BEGIN")
    connection.execute("SAVEPOINT s")
    register(connection)
    assert found(connection, "pets") == ("pets", 1)
    assert found(other, "pets") is None
    connection.execute("ROLLBACK TO s")
    assert found(connection, "pets") is None
    register(connection)
    connection.execute("COMMIT")
    assert found(other, "pets") == ("pets", 1)


def test_reserving_counts_versions_and_refuses_what_is_taken(any_database: Database, connect: Connect) -> None:
    connection = connect(any_database.url)
    register(connection)
    with pytest.raises(psycopg.errors.DuplicateObject) as caught:
        connection.execute(store.reserve_model("pets", False))
    assert caught.value.diag.message_primary == 'model "pets" already exists'
    assert caught.value.diag.message_hint == "Use OPTIONS (overwrite=true), or DROP MODEL pets first."
    assert connection.execute(store.reserve_model("pets", True)).fetchall() == [("postgres", "2")]
    assert connection.execute(store.reserve_model("new", True)).fetchall() == [("postgres", "1")]


def test_reserving_takes_no_transaction_id(database: Database, connect: Connect) -> None:
    connection = connect(database.url)
    connection.execute("BEGIN")
    connection.execute(store.reserve_model("pets", False))
    assert connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)


@pytest.mark.parametrize(("name", "code"), [("", "42602"), ("x" * 64, "42602"), ("猫" * 22, "42602")])
def test_names_that_cannot_be(database: Database, connect: Connect, name: str, code: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        connect(database.url).execute(store.reserve_model(name, False))
    assert caught.value.sqlstate == code


def test_a_read_only_transaction_cannot_reserve(database: Database, connect: Connect) -> None:
    connection = connect(database.url)
    connection.execute("BEGIN READ ONLY")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.execute(store.reserve_model("pets", False))


def test_the_second_of_two_builds_of_a_name_is_told_at_once(database: Database, connect: Connect) -> None:
    first, second = connect(database.url), connect(database.url)
    first.execute("BEGIN")
    first.execute(store.reserve_model("pets", False))
    with pytest.raises(psycopg.errors.LockNotAvailable):
        second.execute(store.reserve_model("pets", False))
    second.execute(store.reserve_model("cars", False))
    first.execute("ROLLBACK")
    second.execute(store.reserve_model("pets", False))


def test_registering_a_name_that_came_into_being_meanwhile(database: Database, connect: Connect) -> None:
    connection = connect(database.url)
    register(connection)
    with pytest.raises(psycopg.errors.DuplicateObject, match="already exists"):
        register(connection)


def test_dropping(any_database: Database, connect: Connect) -> None:
    connection = connect(any_database.url)
    register(connection)
    register(connection, version=2)
    connection.execute(store.drop_model("pets", False))
    assert connection.execute("SELECT count(*) FROM thanosql.model_version").fetchone() == (0,)
    with pytest.raises(psycopg.errors.UndefinedObject, match='model "pets" does not exist'):
        connection.execute(store.drop_model("pets", False))
    notices: list[str | None] = []
    connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    connection.execute(store.drop_model("pets", True))
    assert notices == ['model "pets" does not exist, skipping']
    assert connection.execute(store.reserve_model("pets", False)).fetchall() == [("postgres", "1")]


def test_the_list_begins_with_the_dialects_three_columns(database: Database, connect: Connect) -> None:
    connection = connect(database.url)
    for version in (1, 2):
        register(connection, version=version)
    register(connection, name="cars")
    cursor = connection.execute(store.list_models())
    assert cursor.description is not None
    assert [column.name for column in cursor.description][:3] == ["name", "class_name", "last_updated_utc"]
    assert [row[:2] + row[3:4] for row in cursor] == [("cars", "ConvNeXt_Tiny", 1), ("pets", "ConvNeXt_Tiny", 2)]
    connection.execute(f"SELECT * FROM ({store.list_models()}) AS models")


def test_a_failing_block_raises_the_whole_error(any_database: Database, connect: Connect) -> None:
    error = InvalidImage("row 3: 'a\\b' is no image\n$x$ 100%", detail="d 'q' %", hint="h \\ 猫")
    with pytest.raises(psycopg.Error) as caught:
        connect(any_database.url).execute(store.fail_block(error))
    shown = caught.value.diag
    assert (shown.sqlstate, shown.message_primary, shown.message_detail, shown.message_hint) == (
        "22P03",
        error.message,
        error.detail,
        error.hint,
    )


def test_a_failing_block_without_detail_and_hint(database: Database, connect: Connect) -> None:
    with pytest.raises(psycopg.Error) as caught:
        connect(database.url).execute(store.fail_block(InternalError("a\0b")))
    shown = caught.value.diag
    assert (shown.message_primary, shown.message_detail, shown.message_hint) == ("a\ufffdb", None, None)


@pytest.mark.parametrize("payload", ["", "zz", "7b7d", "5b5d", b"\xff".hex()])
def test_a_row_that_cannot_be_read(payload: str) -> None:
    with pytest.raises(InternalError):
        store.read_model(payload)


@pytest.mark.parametrize(
    "statement",
    [store.find_model("m"), store.reserve_model("m", False), store.drop_model("m", True), store.list_models(), store.GATE],
)
def test_a_missing_schema_is_recognised(empty_database: Database, connect: Connect, statement: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        connect(empty_database.url).execute(statement)
    assert caught.value.sqlstate is not None
    error = store.not_installed(caught.value.sqlstate, str(caught.value.diag.message_primary), "shop")
    assert isinstance(error, NotInstalled)
    assert "thanoproxy init" in str(error.hint)
    assert store.not_installed("42P01", 'relation "pets" does not exist') is None
