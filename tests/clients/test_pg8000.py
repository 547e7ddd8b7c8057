"""pg8000: pure Python, its own protocol code; the unnamed statement is parsed, described and run for each call."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.clients.pictures import COLUMNS, PREDICT, RESULT, Predicted, build, shows_an_epoch

native = pytest.importorskip("pg8000.native", reason="pg8000 is not installed")
dbapi = pytest.importorskip("pg8000.dbapi")


def address(url: str) -> dict[str, Any]:
    parts = conninfo_to_dict(url)
    return {
        "user": parts["user"],
        "password": parts["password"],
        "host": parts["host"],
        "port": int(str(parts["port"])),
        "database": parts["dbname"],
    }


@pytest.fixture
def connection(url: str) -> Iterator[Any]:
    opened = native.Connection(**address(url))
    yield opened
    opened.close()


class TestOrdinarySQL:
    def test_parameters_and_types(self, connection: Any) -> None:
        query = "SELECT CAST(:a AS int8), CAST(:b AS text), CAST(:c AS numeric), CAST(:d AS bool), CAST(:e AS date), CAST(:f AS int[])"
        values = {"a": 7, "b": "Grüße 😀", "c": Decimal("1.50"), "d": True, "e": None, "f": [1, None, 3]}
        assert connection.run(query, **values) == [list(values.values())]

    def test_a_rollback_and_an_error(self, connection: Any) -> None:
        connection.run("CREATE TEMP TABLE t (a int)")
        connection.run("BEGIN")
        connection.run("INSERT INTO t VALUES (1)")
        with pytest.raises(native.DatabaseError) as caught:
            connection.run("SELECT 1 / CAST(:zero AS int)", zero=0)
        assert caught.value.args[0]["C"] == "22012"
        connection.run("ROLLBACK")
        assert connection.run("SELECT count(*) FROM t") == [[0]]

    def test_a_prepared_statement(self, connection: Any) -> None:
        prepared = connection.prepare("SELECT CAST(:a AS int) + 1 AS next")
        assert [prepared.run(a=i) for i in range(7)] == [[[i + 1]] for i in range(7)]
        prepared.close()

    def test_copy(self, connection: Any) -> None:
        connection.run("CREATE TEMP TABLE t (a int, b text)")
        connection.run("COPY t FROM STDIN", stream=io.BytesIO(b"1\tone\n2\t\\N\n"))
        out = io.BytesIO()
        connection.run("COPY t TO STDOUT", stream=out)
        assert out.getvalue() == b"1\tone\n2\t\\N\n"

    def test_notify(self, connection: Any) -> None:
        connection.run("LISTEN pg8000_news")
        connection.run("NOTIFY pg8000_news, 'hello'")
        connection.run("SELECT 1")
        assert [tuple(heard[1:]) for heard in connection.notifications] == [("pg8000_news", "hello")]


class TestModels:
    def test_build_tells_its_progress(self, connection: Any) -> None:
        (row,) = connection.run(build("by_pg8000"))
        assert [column["name"] for column in connection.columns] == RESULT
        assert row[:4] == ["by_pg8000", 1, ["blue", "red"], 24]
        assert shows_an_epoch(notice[b"M"].decode() for notice in connection.notices)
        connection.run("DROP MODEL by_pg8000")

    def test_predict(self, connection: Any, predicted: Predicted) -> None:
        assert [tuple(row) for row in connection.run(PREDICT)] == predicted
        assert [column["name"] for column in connection.columns] == COLUMNS
        assert connection.row_count == 24

    def test_parameters(self, connection: Any, predicted: Predicted) -> None:
        found = connection.run(PREDICT.replace("ORDER", "WHERE label = :label AND id < CAST(:end AS int) ORDER"), label="red", end=9)
        assert [tuple(row) for row in found] == [row for row in predicted if row[2] == "red" and row[0] < 9]

    def test_a_prepared_statement(self, connection: Any, predicted: Predicted) -> None:
        prepared = connection.prepare(PREDICT.replace("ORDER", "WHERE id = CAST(:id AS int) ORDER"))
        assert [tuple(prepared.run(id=i)[0]) for i in range(7)] == predicted[:7]
        prepared.close()

    def test_a_failure_and_going_on(self, connection: Any) -> None:
        with pytest.raises(native.DatabaseError) as caught:
            connection.run("PREDICT USING nobody AS TABLE pictures")
        fields = caught.value.args[0]
        assert (fields["C"], fields["P"], fields["M"]) == ("42704", "15", 'model "nobody" does not exist')
        assert connection.run("SELECT 1") == [[1]]

    def test_the_dbapi(self, url: str, predicted: Predicted) -> None:
        connection = dbapi.connect(**address(url))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # DB-API extensions warn when they are used
            cursor = connection.cursor()
            cursor.execute(PREDICT)
            assert [column[0] for column in cursor.description] == COLUMNS
            assert [tuple(row) for row in cursor.fetchall()] == predicted
            with pytest.raises(dbapi.DatabaseError):
                cursor.execute("PREDICT USING colours AS SELECT 'gone.png' AS image")
            connection.rollback()
            cursor.execute("SELECT %s", ("usable",))
            assert [tuple(row) for row in cursor.fetchall()] == [("usable",)]
            connection.close()
