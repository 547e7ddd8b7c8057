"""ADBC: results as Arrow tables, read by COPY (…) TO STDOUT (FORMAT binary); BUILD needs `use_copy` switched off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.pictures import COLUMNS, PREDICT, RESULT, Predicted, build

dbapi = pytest.importorskip("adbc_driver_postgresql.dbapi", reason="adbc-driver-postgresql is not installed")
pyarrow = pytest.importorskip("pyarrow", reason="ADBC's DB-API needs pyarrow")

WITHOUT_COPY = {"adbc.postgresql.use_copy": "false"}


@pytest.fixture
def connection(url: str) -> Iterator[Any]:
    with dbapi.connect(url) as opened:
        yield opened


@pytest.fixture
def cursor(connection: Any) -> Iterator[Any]:
    with connection.cursor() as opened:
        yield opened


@pytest.fixture
def without_copy(connection: Any) -> Iterator[Any]:
    with connection.cursor(adbc_stmt_kwargs=WITHOUT_COPY) as opened:
        yield opened


def rows(cursor: Any, statement: str) -> list[tuple[object, ...]]:
    cursor.execute(statement)
    return list(cursor.fetchall())


class TestOrdinarySQL:
    def test_types(self, cursor: Any) -> None:
        cursor.execute("SELECT 7::int8 AS a, 'Grüße 😀' AS b, true AS c, NULL::date AS d, ARRAY[1, NULL, 3] AS e, '\\xbeef'::bytea AS f")
        (row,) = cursor.fetch_arrow_table().to_pylist()
        assert row == {"a": 7, "b": "Grüße 😀", "c": True, "d": None, "e": [1, None, 3], "f": b"\xbe\xef"}

    def test_parameters(self, cursor: Any) -> None:
        cursor.execute("SELECT id FROM pictures WHERE label = $1 AND id < $2 ORDER BY id", ("red", 6))
        assert cursor.fetchall() == [(1,), (3,), (5,)]

    def test_ingest_and_rollback(self, connection: Any, cursor: Any) -> None:
        table = pyarrow.table({"a": list(range(5000)), "b": ["x"] * 5000})
        assert cursor.adbc_ingest("adbc_rows", table, mode="create") == 5000
        cursor.execute("SELECT count(*), sum(a)::int8 FROM adbc_rows")
        assert cursor.fetchone() == (5000, 12497500)
        connection.rollback()
        cursor.execute("SELECT to_regclass('adbc_rows') IS NULL")
        assert cursor.fetchone() == (True,)

    def test_an_error_and_going_on(self, connection: Any, cursor: Any) -> None:
        with pytest.raises(dbapi.Error) as caught:
            cursor.execute("SELECT nothing FROM pictures")
        assert caught.value.sqlstate == "42703"
        connection.rollback()
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


class TestModels:
    def test_build(self, connection: Any, without_copy: Any) -> None:
        without_copy.execute(build("by_adbc"))
        table = without_copy.fetch_arrow_table()
        assert table.column_names == RESULT
        assert list(table.to_pylist()[0].values())[:4] == ["by_adbc", 1, ["blue", "red"], 24]
        connection.rollback()

    def test_predict(self, without_copy: Any, predicted: Predicted) -> None:
        without_copy.execute(PREDICT)
        table = without_copy.fetch_arrow_table()
        assert table.column_names == COLUMNS
        assert [tuple(row.values()) for row in table.to_pylist()] == predicted

    def test_predict_by_copy(self, cursor: Any, predicted: Predicted) -> None:
        cursor.execute(PREDICT)
        table = cursor.fetch_arrow_table()
        assert table.column_names == COLUMNS
        assert [tuple(row.values()) for row in table.to_pylist()] == predicted

    def test_inside_other_sql(self, cursor: Any, predicted: Predicted) -> None:
        cursor.execute(f"SELECT id, predicted FROM ({PREDICT}) t WHERE label = $1 AND id < $2", ("red", 9))
        assert cursor.fetchall() == [(row[0], row[3]) for row in predicted if row[2] == "red" and row[0] < 9]

    def test_a_failure_and_going_on(self, connection: Any, without_copy: Any, predicted: Predicted) -> None:
        with pytest.raises(dbapi.Error) as caught:
            rows(without_copy, "PREDICT USING colours AS SELECT 'gone.png' AS image")
        assert caught.value.sqlstate == "58P01"
        connection.rollback()
        without_copy.execute(PREDICT)
        assert without_copy.fetchone() == predicted[0]
