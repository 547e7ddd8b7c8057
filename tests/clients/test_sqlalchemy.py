"""SQLAlchemy over psycopg, psycopg2 and asyncpg: Core, reflection, transactions, streamed results."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.clients.pictures import COLUMNS, PREDICT, RESULT, Predicted, build

sqlalchemy = pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")
aio = pytest.importorskip("sqlalchemy.ext.asyncio")
pytest.importorskip("greenlet", reason="SQLAlchemy's asyncio needs greenlet")

from sqlalchemy import Column, Engine, Integer, MetaData, Table, Text, insert, inspect, select, text  # noqa: E402
from sqlalchemy.exc import DBAPIError  # noqa: E402
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine  # noqa: E402

WHERE = PREDICT.replace("ORDER", "WHERE label = :label AND id < :end ORDER")


def dialect(url: str, driver: str) -> sqlalchemy.URL:
    return sqlalchemy.make_url(url).set(drivername=f"postgresql+{driver}")


def sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)


@pytest.fixture(scope="module", params=["psycopg", "psycopg2"])
def engine(request: pytest.FixtureRequest, url: str) -> Iterator[Engine]:
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    made = sqlalchemy.create_engine(dialect(url, request.param))
    yield made
    made.dispose()


class TestOrdinarySQL:
    def test_reflection(self, engine: Engine) -> None:
        columns = inspect(engine).get_columns("pictures")
        assert [(column["name"], str(column["type"])) for column in columns] == [("id", "INTEGER"), ("image", "TEXT"), ("label", "TEXT")]

    def test_insert_select_and_rollback(self, engine: Engine) -> None:
        table = Table("sqlalchemy_things", MetaData(), Column("id", Integer, primary_key=True), Column("name", Text))
        with engine.connect() as connection:
            table.create(connection)
            rows = [{"name": f"thing {i}"} for i in range(50)]
            assert len(connection.execute(insert(table).returning(table.c.id), rows).all()) == 50
            assert connection.scalar(select(table.c.name).where(table.c.id == 7)) == "thing 6"
            connection.rollback()
        assert not inspect(engine).has_table("sqlalchemy_things")

    def test_an_error_in_a_savepoint(self, engine: Engine) -> None:
        with engine.begin() as connection:
            with pytest.raises(DBAPIError), connection.begin_nested():
                connection.execute(text("SELECT 1 / :zero"), {"zero": 0})
            assert connection.scalar(text("SELECT 1")) == 1


class TestModels:
    def test_build_predict_and_drop(self, engine: Engine) -> None:
        name = f"by_sqlalchemy_{engine.driver}"
        with engine.begin() as connection:
            result = connection.execute(text(build(name)))
            assert list(result.keys()) == RESULT
            assert tuple(result.one())[:4] == (name, 1, ["blue", "red"], 24)
        with engine.begin() as connection:
            assert len(connection.execute(text(f"PREDICT USING {name} AS TABLE pictures")).all()) == 24
            connection.execute(text(f"DROP MODEL {name}"))

    def test_predict(self, engine: Engine, predicted: Predicted) -> None:
        with engine.connect() as connection:
            result = connection.execute(text(PREDICT))
            assert list(result.keys()) == COLUMNS
            assert [tuple(row) for row in result] == predicted
            found = connection.execute(text(WHERE), {"label": "red", "end": 9}).all()
            assert [tuple(row) for row in found] == [row for row in predicted if row[2] == "red" and row[0] < 9]

    def test_outside_a_transaction(self, engine: Engine, predicted: Predicted) -> None:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            assert [tuple(row) for row in connection.execute(text(PREDICT))] == predicted

    def test_streamed_results(self, engine: Engine, predicted: Predicted) -> None:
        with engine.connect() as connection:  # a DECLARE CURSOR
            result = connection.execution_options(stream_results=True, max_row_buffer=5).execute(text(WHERE), {"label": "red", "end": 20})
            assert [tuple(row) for row in result] == [row for row in predicted if row[2] == "red" and row[0] < 20]

    def test_inside_other_sql(self, engine: Engine, predicted: Predicted) -> None:
        seen = text(PREDICT).columns(Column("id", Integer), Column("predicted", Text)).subquery("seen")
        count = sqlalchemy.func.count()
        with engine.connect() as connection:
            found = connection.execute(select(seen.c.predicted, count).where(seen.c.id < 9).group_by(seen.c.predicted)).all()
        labels = [row[3] for row in predicted[:9]]
        assert {tuple(row) for row in found} == {(label, labels.count(label)) for label in labels}

    def test_a_failure_and_going_on(self, engine: Engine) -> None:
        with engine.connect() as connection:
            with pytest.raises(DBAPIError, match=r"gone\.png") as caught:
                connection.execute(text("PREDICT USING colours AS SELECT 'gone.png' AS image"))
            assert sqlstate(caught.value) == "58P01"
            connection.rollback()
            assert connection.scalar(text("SELECT 1")) == 1


class TestAsyncpg:
    @pytest.fixture
    async def engine(self, url: str) -> AsyncIterator[AsyncEngine]:
        made = create_async_engine(dialect(url, "asyncpg"))
        yield made
        await made.dispose()

    async def test_ordinary_sql(self, engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            await connection.execute(text("CREATE TABLE sqlalchemy_never (a int)"))
            await connection.rollback()
            with pytest.raises(DBAPIError):
                await connection.execute(text("TABLE sqlalchemy_never"))
            await connection.rollback()
            assert await connection.scalar(text("SELECT CAST(:a AS int)"), {"a": 5}) == 5

    async def test_build_predict_and_drop(self, engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            result = await connection.execute(text(build("by_sqlalchemy_asyncpg")))
            assert tuple(result.one())[:4] == ("by_sqlalchemy_asyncpg", 1, ["blue", "red"], 24)
            await connection.execute(text("DROP MODEL by_sqlalchemy_asyncpg"))

    async def test_predict(self, engine: AsyncEngine, predicted: Predicted) -> None:
        async with engine.connect() as connection:
            result = await connection.execute(text(WHERE), {"label": "red", "end": 9})
            assert list(result.keys()) == COLUMNS
            assert [tuple(row) for row in result] == [row for row in predicted if row[2] == "red" and row[0] < 9]

    async def test_streamed_results(self, engine: AsyncEngine, predicted: Predicted) -> None:
        async with engine.connect() as connection, connection.stream(text(PREDICT)) as result:
            assert [tuple(row) async for row in result] == predicted
