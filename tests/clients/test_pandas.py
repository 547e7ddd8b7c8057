"""pandas: read_sql and to_sql, over SQLAlchemy with each of the drivers that it has for PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
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


FEW = PREDICT.replace("ORDER", "WHERE id < :end ORDER")
WRAPPED = {
    "by itself": "{q}",
    "in FROM": "SELECT id, predicted FROM ({q}) AS t WHERE id <> :end - 3 ORDER BY id",
    "grouped": "SELECT predicted, count(*) AS n, min(id) AS least FROM ({q}) AS t WHERE id < :end - 1 GROUP BY predicted ORDER BY 1",
    "CTE": "WITH p AS ({q}) SELECT label, predicted FROM p WHERE label = 'red' ORDER BY id",
    "joined": "SELECT * FROM pictures JOIN ({q}) AS t USING (id) ORDER BY id",
}
DRIVERS = ["psycopg", "psycopg2", "asyncpg"]


@pytest.fixture(scope="module")
def stored(url: str) -> str:
    """A table with the rows and predictions of `PREDICT`."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS pandas_stored AS PREDICT USING colours AS SELECT id, image, label FROM pictures")
    return "SELECT * FROM pandas_stored ORDER BY id"


@pytest.fixture(params=DRIVERS)
def within(request: pytest.FixtureRequest, url: str) -> Any:
    """A function that calls another with a connection, and awaits what it returns."""
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    pytest.importorskip("greenlet", reason="SQLAlchemy's asyncio needs greenlet")
    address = sqlalchemy.make_url(url).set(drivername=f"postgresql+{request.param}")

    async def call(use: Callable[[sqlalchemy.Connection], Any]) -> Any:
        if request.param != "asyncpg":
            engine = sqlalchemy.create_engine(address, poolclass=sqlalchemy.NullPool)
            with engine.connect() as opened:
                return use(opened)
        from sqlalchemy.ext.asyncio import create_async_engine

        async with create_async_engine(address, poolclass=sqlalchemy.NullPool).connect() as opened:
            return await opened.run_sync(use)

    return call


@pytest.mark.parametrize("position", WRAPPED)
async def test_inside_other_sql(within: Any, stored: str, position: str) -> None:
    def frames(connection: sqlalchemy.Connection) -> list[Any]:
        queries = FEW, stored.replace("ORDER", "WHERE id < :end ORDER")
        texts = [sqlalchemy.text(WRAPPED[position].format(q=query)) for query in queries]
        return [pandas.read_sql(text, connection, params={"end": 9}) for text in texts]

    ours, plain = await within(frames)
    assert len(ours) > 0
    pandas.testing.assert_frame_equal(ours, plain)


@pytest.mark.parametrize("server_side", [False, True], ids=["client side", "server side"])
async def test_in_chunks(within: Any, stored: str, server_side: bool) -> None:
    """With `stream_results` the rows stay at the server, in a cursor or (asyncpg) a portal."""

    def chunks(connection: sqlalchemy.Connection) -> list[list[Any]]:
        streamed = connection.execution_options(stream_results=server_side)
        wrapped = "SELECT id, predicted FROM ({q}) AS t WHERE id < 20"
        return [list(pandas.read_sql(sqlalchemy.text(wrapped.format(q=query)), streamed, chunksize=7)) for query in (PREDICT, stored)]

    ours, plain = await within(chunks)
    assert [len(chunk) for chunk in ours] == [7, 7, 6]
    for one, other in zip(ours, plain, strict=True):
        pandas.testing.assert_frame_equal(one, other)


async def test_a_select_over_it(within: Any, stored: str) -> None:
    """SQLAlchemy's own SQL around the text, with its parameters."""

    def frames(connection: sqlalchemy.Connection) -> list[Any]:
        found = []
        for query in (PREDICT, stored):
            names = {"id": sqlalchemy.Integer, "label": sqlalchemy.Text, "predicted": sqlalchemy.Text}
            seen = sqlalchemy.text(query).columns(**names).subquery("seen")
            count = sqlalchemy.func.count().label("n")
            statement = sqlalchemy.select(seen.c.predicted, count).where(seen.c.id.between(2, 17), seen.c.label.in_(["red", "blue"]))
            found.append(pandas.read_sql(statement.group_by(seen.c.predicted).order_by(count.desc(), seen.c.predicted), connection))
        return found

    ours, plain = await within(frames)
    assert ours["n"].sum() == 16
    pandas.testing.assert_frame_equal(ours, plain)
