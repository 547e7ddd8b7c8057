"""psycopg2: simple protocol throughout, parameters written into the text, a transaction opened by its own BEGIN in the same string."""

from __future__ import annotations

import io
import sys
import textwrap
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from tests.clients.conftest import run_client
from tests.clients.pictures import COLUMNS, ENDLESS, PREDICT, RESULT, Predicted, build, shows_an_epoch

psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
extras = pytest.importorskip("psycopg2.extras")
errors = pytest.importorskip("psycopg2.errors")


@pytest.fixture
def connection(url: str) -> Iterator[Any]:
    opened = psycopg2.connect(url)
    yield opened
    opened.close()


@pytest.fixture
def cursor(connection: Any) -> Iterator[Any]:
    with connection.cursor() as opened:
        yield opened


def canceled(url: str, statement: str) -> str:
    """The SQLSTATE that a statement canceled after half a second ends with, and the answer to SELECT 1 on the same connection after it.

    In a process of its own: PQcancel waits for the proxy without releasing the GIL.
    """
    program = textwrap.dedent("""
        import psycopg2, sys, threading
        connection = psycopg2.connect(sys.argv[1])
        cursor = connection.cursor()
        threading.Timer(0.5, connection.cancel).start()
        try:
            cursor.execute(sys.argv[2])
        except psycopg2.Error as error:
            connection.rollback()
            cursor.execute("SELECT 1")
            print(error.pgcode, *cursor.fetchone())
    """)
    done = run_client([sys.executable, "-c", program, url, statement])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class TestOrdinarySQL:
    def test_parameters_and_types(self, cursor: Any) -> None:
        values = (7, "Grüße 😀", Decimal("1.50"), True, None, [1, None, 3])
        cursor.execute("SELECT %s::int8, %s::text, %s::numeric, %s::bool, %s::date, %s::int[]", values)
        assert cursor.fetchone() == values

    def test_an_error_and_a_rollback(self, connection: Any, cursor: Any) -> None:
        cursor.execute("CREATE TEMP TABLE t (a int)")
        with pytest.raises(errors.DivisionByZero):
            cursor.execute("SELECT 1/0")
        with pytest.raises(errors.InFailedSqlTransaction):
            cursor.execute("SELECT 1")
        connection.rollback()
        cursor.execute("SELECT to_regclass('pg_temp.t')")
        assert cursor.fetchone() == (None,)

    def test_execute_values(self, cursor: Any) -> None:
        cursor.execute("CREATE TEMP TABLE t (a int, b text)")
        extras.execute_values(cursor, "INSERT INTO t VALUES %s", [(i, str(i)) for i in range(1000)], page_size=300)
        cursor.execute("SELECT sum(a) FROM t")
        assert cursor.fetchone() == (499500,)

    def test_a_named_cursor(self, connection: Any) -> None:
        with connection.cursor("named") as cursor:
            cursor.itersize = 30
            cursor.execute("SELECT generate_series(1, 100)")
            assert [row[0] for row in cursor] == list(range(1, 101))

    def test_copy(self, cursor: Any) -> None:
        cursor.execute("CREATE TEMP TABLE t (a int, b text)")
        cursor.copy_expert("COPY t FROM STDIN", io.StringIO("1\tone\n2\t\\N\n"))
        out = io.StringIO()
        cursor.copy_expert("COPY t TO STDOUT (FORMAT csv)", out)
        assert out.getvalue() == "1,one\n2,\n"

    def test_notify(self, connection: Any, cursor: Any) -> None:
        connection.autocommit = True
        cursor.execute("LISTEN psycopg2_news; NOTIFY psycopg2_news, 'hello'")
        connection.poll()
        assert [(heard.channel, heard.payload) for heard in connection.notifies] == [("psycopg2_news", "hello")]

    def test_cancel(self, url: str) -> None:
        assert canceled(url, "SELECT pg_sleep(30)") == "57014 1"


class TestModels:
    def test_build_tells_its_progress(self, connection: Any, cursor: Any) -> None:
        cursor.execute(build("by_psycopg2"))
        assert [column.name for column in cursor.description] == RESULT
        assert cursor.fetchone()[:4] == ("by_psycopg2", 1, ["blue", "red"], 24)
        assert shows_an_epoch(connection.notices)
        connection.commit()
        cursor.execute("DROP MODEL by_psycopg2")
        assert cursor.statusmessage == "DROP MODEL"
        connection.commit()

    def test_a_build_that_is_rolled_back(self, connection: Any, cursor: Any) -> None:
        cursor.execute(build("by_psycopg2"))
        connection.rollback()
        with pytest.raises(errors.UndefinedObject):
            cursor.execute("PREDICT USING by_psycopg2 AS TABLE pictures")

    def test_predict(self, cursor: Any, predicted: Predicted) -> None:
        cursor.execute(PREDICT)
        assert [column.name for column in cursor.description] == COLUMNS
        assert cursor.fetchall() == predicted
        assert (cursor.rowcount, cursor.statusmessage) == (24, "SELECT 24")

    def test_parameters(self, cursor: Any, predicted: Predicted) -> None:
        cursor.execute(PREDICT.replace("ORDER", "WHERE label = %s AND id < %s ORDER"), ("red", 9))
        assert cursor.fetchall() == [row for row in predicted if row[2] == "red" and row[0] < 9]

    def test_a_failure_and_going_on(self, connection: Any, cursor: Any, predicted: Predicted) -> None:
        with pytest.raises(errors.UndefinedFile) as caught:
            cursor.execute("PREDICT USING colours AS SELECT %s AS image", ("gone.png",))
        assert "gone.png" in caught.value.diag.message_primary
        connection.rollback()
        cursor.execute(PREDICT)
        assert cursor.fetchall() == predicted

    def test_a_named_cursor(self, connection: Any, predicted: Predicted) -> None:
        with connection.cursor("named") as cursor:
            cursor.itersize = 5
            cursor.execute(PREDICT)
            assert list(cursor) == predicted

    def test_inside_other_sql(self, connection: Any, cursor: Any, predicted: Predicted) -> None:
        cursor.execute(f"SELECT id, predicted FROM ({PREDICT}) t WHERE label = %s", ("red",))
        assert cursor.fetchall() == [(row[0], row[3]) for row in predicted if row[2] == "red"]
        cursor.execute(f"CREATE TEMP TABLE psycopg2_made AS {PREDICT}")
        assert (cursor.rowcount, cursor.statusmessage) == (24, "SELECT 24")
        out = io.StringIO()
        cursor.copy_expert(f"COPY ({PREDICT}) TO STDOUT (FORMAT csv)", out)
        assert out.getvalue().splitlines() == [",".join(map(str, row)) for row in predicted]

    def test_cancel(self, url: str) -> None:
        assert canceled(url, ENDLESS) == "57014 1"
