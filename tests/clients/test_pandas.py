"""pandas: read_sql and to_sql, over SQLAlchemy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.pictures import COLUMNS, PREDICT, RESULT, Predicted, build

pandas = pytest.importorskip("pandas", reason="pandas is not installed")
sqlalchemy = pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")


@pytest.fixture
def connection(url: str) -> Iterator[sqlalchemy.Connection]:
    engine = sqlalchemy.create_engine(sqlalchemy.make_url(url).set(drivername="postgresql+psycopg"))
    with engine.connect() as opened:
        yield opened
    engine.dispose()


def test_a_table_is_written_read_and_rolled_back(connection: sqlalchemy.Connection) -> None:
    frame = pandas.DataFrame({"a": [1, 2, 3], "b": ["x", None, "😀"]})
    connection.begin()  # else to_sql commits
    frame.to_sql("pandas_frame", connection, index=False, method="multi")
    again = pandas.read_sql("SELECT * FROM pandas_frame ORDER BY a", connection)
    pandas.testing.assert_frame_equal(again, frame, check_dtype=False)
    connection.rollback()
    assert not sqlalchemy.inspect(connection).has_table("pandas_frame")


def test_an_error_and_going_on(connection: sqlalchemy.Connection) -> None:
    with pytest.raises(Exception, match="division by zero"):
        pandas.read_sql(sqlalchemy.text("SELECT 1/0"), connection)
    connection.rollback()
    assert pandas.read_sql(sqlalchemy.text("SELECT 1 AS a"), connection)["a"].tolist() == [1]


def test_build(connection: sqlalchemy.Connection) -> None:
    frame = pandas.read_sql(sqlalchemy.text(build("by_pandas")), connection)
    assert list(frame.columns) == RESULT
    assert frame.loc[0, ["name", "version", "images"]].tolist() == ["by_pandas", 1, 24]
    connection.rollback()


def test_predict(connection: sqlalchemy.Connection, predicted: Predicted) -> None:
    frame = pandas.read_sql(sqlalchemy.text(PREDICT), connection)
    assert list(frame.columns) == COLUMNS
    assert list(frame.itertuples(index=False, name=None)) == predicted


def test_parameters_and_an_index(connection: sqlalchemy.Connection, predicted: Predicted) -> None:
    statement = sqlalchemy.text(PREDICT.replace("ORDER", "WHERE label = :label ORDER"))
    frame = pandas.read_sql(statement, connection, params={"label": "red"}, index_col="id")
    assert frame["predicted"].to_dict() == {row[0]: row[3] for row in predicted if row[2] == "red"}
