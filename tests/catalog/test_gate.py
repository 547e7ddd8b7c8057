"""COPY thanosql.gate FROM STDIN in the middle of a simple Query, as an ordinary user."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import pq
from psycopg.pq.abc import PGresult

from tests.catalog.conftest import make_record
from tests.databases import Database
from thanoproxy.catalog import store
from thanoproxy.errors import UndefinedColumn

Connect = Callable[..., psycopg.Connection]


class Pausing:
    """A simple Query that is stopped at its gate: libpq's own calls, so that nothing is sent before we say so."""

    def __init__(self, connection: psycopg.Connection, string: str) -> None:
        self.pgconn = connection.pgconn
        self.pgconn.send_query(string.encode())

    def results(self) -> Iterator[PGresult]:
        while (result := self.pgconn.get_result()) is not None:
            yield result
            if result.status == pq.ExecStatus.COPY_IN:
                return

    def put(self, line: bytes) -> None:
        self.pgconn.put_copy_data(line)
        while self.pgconn.flush():
            pass


@pytest.fixture
def user(any_database: Database, connect: Connect) -> psycopg.Connection:
    any_database.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    return connect(any_database.add_role()[1])


def values(results: Iterator[PGresult]) -> list[bytes | None]:
    return [result.get_value(0, 0) for result in results if result.ntuples]


def test_the_string_waits_at_the_gate_and_goes_on(user: psycopg.Connection) -> None:
    paused = Pausing(user, f"CREATE TABLE t (i int); SELECT 1; {store.GATE}; INSERT INTO t VALUES (7); SELECT i FROM t")
    assert values(paused.results()) == [b"1"]
    paused.put(store.gate_wait())
    paused.pgconn.put_copy_end()
    assert values(paused.results()) == [b"7"]


def test_an_error_line_fails_the_string_before_copy_is_done(user: psycopg.Connection) -> None:
    """Without CopyDone: the server must read the line at once, since the proxy has nothing more to say."""
    error = UndefinedColumn('column "lä\\bel" is not\tthere', detail="Line 1\nLine 2", hint="Did you mean 猫?")
    paused = Pausing(user, f"CREATE TABLE t (i int); {store.GATE}; SELECT 1")
    list(paused.results())
    paused.put(store.gate_raise(error))
    assert select.select([user.pgconn.socket], [], [], 10)[0], "the server did not answer the line"
    paused.pgconn.put_copy_end()  # libpq hands the error over only now
    [failed] = paused.results()
    fields = [
        pq.DiagnosticField.SQLSTATE,
        pq.DiagnosticField.MESSAGE_PRIMARY,
        pq.DiagnosticField.MESSAGE_DETAIL,
        pq.DiagnosticField.MESSAGE_HINT,
    ]
    assert [(failed.error_field(field) or b"").decode() for field in fields] == ["42703", error.message, error.detail, error.hint]
    assert user.execute("SELECT to_regclass('t')").fetchone() == (None,)


def test_a_model_is_registered_through_the_gate(user: psycopg.Connection) -> None:
    record = make_record(name="pé\\ts", owner=user.info.user, classes=("a\tb", "c\\n"))
    paused = Pausing(user, f"BEGIN; {store.GATE}; SELECT count(*) FROM thanosql.models")
    list(paused.results())
    paused.put(store.gate_register(record))
    paused.pgconn.put_copy_end()
    assert values(paused.results()) == [b"1"]
    [(payload,)] = user.execute(store.find_model(record.name)).fetchall()
    assert store.read_model(payload) == record
    user.execute("ROLLBACK")
    assert user.execute(store.find_model(record.name)).fetchall() == []


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (store.gate_row("dance", "{}"), "22023"),
        (store.gate_row("register", "{}"), "42501"),
        (store.gate_row("raise", "{}"), "XX000"),
        (store.gate_row("raise", "no json"), "22P02"),
        (b"\\N\t\\N\n", "22023"),
    ],
)
def test_lines_that_make_no_sense_fail(user: psycopg.Connection, line: bytes, code: str) -> None:
    with pytest.raises(psycopg.Error) as caught, user.cursor().copy(store.GATE) as copy:
        copy.write(line)
    assert caught.value.sqlstate == code


def test_a_read_only_transaction_refuses_the_gate(user: psycopg.Connection) -> None:
    user.execute("BEGIN READ ONLY")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), user.cursor().copy(store.GATE):
        pass


def test_a_cancel_arrives_while_the_gate_waits(user: psycopg.Connection, any_database: Database) -> None:
    paused = Pausing(user, f"{store.GATE}; SELECT 1")
    list(paused.results())
    any_database.execute(f"SELECT pg_cancel_backend({user.info.backend_pid})")
    paused.put(store.gate_wait())
    paused.pgconn.put_copy_end()
    [failed] = paused.results()
    assert failed.error_field(pq.DiagnosticField.SQLSTATE) == b"57014"
