"""asyncpg: it prepares everything, describes with Flush, and takes every value in binary."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from uuid import UUID

import asyncpg
import pytest

from tests.clients.pictures import COLUMNS, ENDLESS, PREDICT, RESULT, Predicted, build, shows_an_epoch


@pytest.fixture
async def connection(url: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(url)
    yield opened
    await opened.close()


class TestOrdinarySQL:
    async def test_parameters_and_types(self, connection: asyncpg.Connection) -> None:
        values = (7, "Grüße 😀", Decimal("1.50"), True, None, [1, None, 3], b"\xbe\xef", UUID(int=5), {"a": 1}.__repr__())
        query = "SELECT $1::int8, $2::text, $3::numeric, $4::bool, $5::date, $6::int[], $7::bytea, $8::uuid, $9::varchar"
        assert tuple(await connection.fetchrow(query, *values)) == values

    async def test_a_type_that_has_to_be_looked_up(self, connection: asyncpg.Connection) -> None:
        await connection.execute("CREATE TYPE pg_temp.mood AS ENUM ('sad', 'happy')")
        assert await connection.fetchval("SELECT ARRAY['sad', 'happy']::pg_temp.mood[]") == ["sad", "happy"]

    async def test_a_prepared_statement(self, connection: asyncpg.Connection) -> None:
        prepared = await connection.prepare("SELECT $1::int + 1 AS next")
        assert [attribute.name for attribute in prepared.get_attributes()] == ["next"]
        assert [await prepared.fetchval(i) for i in range(3)] == [1, 2, 3]

    async def test_a_script_without_parameters(self, connection: asyncpg.Connection) -> None:
        assert await connection.execute("CREATE TEMP TABLE t (a int); INSERT INTO t VALUES (1), (2)") == "INSERT 0 2"

    async def test_an_error_and_going_on(self, connection: asyncpg.Connection) -> None:
        with pytest.raises(asyncpg.DivisionByZeroError):
            await connection.fetch("SELECT 1 / $1::int", 0)
        assert await connection.fetchval("SELECT 1") == 1

    async def test_a_rollback_and_a_savepoint(self, connection: asyncpg.Connection) -> None:
        await connection.execute("CREATE TEMP TABLE t (a int)")
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(asyncpg.UndefinedTableError):
            async with connection.transaction():
                await connection.execute("INSERT INTO nowhere VALUES (1)")
        assert await connection.fetchval("SELECT count(*) FROM t") == 1
        await transaction.rollback()
        assert await connection.fetchval("SELECT count(*) FROM t") == 0

    async def test_executemany(self, connection: asyncpg.Connection) -> None:
        await connection.execute("CREATE TEMP TABLE t (a int, b text)")
        await connection.executemany("INSERT INTO t VALUES ($1, $2)", [(i, str(i)) for i in range(1000)])
        assert await connection.fetchval("SELECT sum(a) FROM t") == 499500

    async def test_a_cursor(self, connection: asyncpg.Connection) -> None:
        async with connection.transaction():
            found = [row[0] async for row in connection.cursor("SELECT generate_series(1, $1::int)", 120, prefetch=50)]
        assert found == list(range(1, 121))

    async def test_copy_in_and_out(self, connection: asyncpg.Connection) -> None:
        await connection.execute("CREATE TEMP TABLE t (a int, b text)")
        records = [(i, "x" * i) for i in range(500)]
        assert await connection.copy_records_to_table("t", records=records) == "COPY 500"
        chunks: list[bytes] = []

        async def keep(chunk: bytes) -> None:
            chunks.append(chunk)

        assert await connection.copy_from_query("SELECT * FROM t WHERE a < $1", 3, output=keep) == "COPY 3"
        assert b"".join(chunks) == b"0\t\n1\tx\n2\txx\n"

    async def test_listen_and_notify(self, connection: asyncpg.Connection, url: str) -> None:
        heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        await connection.add_listener("asyncpg_news", lambda _con, _pid, channel, payload: heard.put_nowait((channel, payload)))
        other = await asyncpg.connect(url)
        await other.execute("NOTIFY asyncpg_news, 'hello'")
        await other.close()
        assert await asyncio.wait_for(heard.get(), 5) == ("asyncpg_news", "hello")
        await connection.remove_listener("asyncpg_news", lambda *_: None)

    async def test_a_timeout_cancels(self, connection: asyncpg.Connection) -> None:
        with pytest.raises(TimeoutError):
            await connection.fetch("SELECT pg_sleep(30)", timeout=0.3)
        assert await connection.fetchval("SELECT 1") == 1

    async def test_a_pool_resets_its_connections(self, url: str) -> None:
        async with asyncpg.create_pool(url, min_size=1, max_size=2) as pool:
            async with pool.acquire() as connection:
                await connection.execute("SET work_mem = '7MB'")
            assert await pool.fetchval("SHOW work_mem") != "7MB"
            assert await asyncio.gather(*(pool.fetchval("SELECT $1::int", i) for i in range(20))) == list(range(20))


class TestFiles:
    async def test_a_table_of_photos(self, connection: asyncpg.Connection) -> None:
        assert await connection.execute("COPY pg_temp.photos OPTIONS () FROM 'red'") == "COPY 12"
        assert await connection.fetch("COPY photos OPTIONS (if_exists='append') FROM 'blue'") == []
        prepared = await connection.prepare("COPY photos OPTIONS (if_exists='replace') FROM '.'")
        assert prepared.get_attributes() == ()
        assert await prepared.fetch() == []
        assert prepared.get_statusmsg() == "COPY 24"
        assert await connection.fetchval("SELECT count(*) FROM photos") == 24

    async def test_a_name_that_is_taken(self, connection: asyncpg.Connection) -> None:
        with pytest.raises(asyncpg.DuplicateTableError) as caught:
            await connection.fetch("COPY pictures OPTIONS () FROM 'red'")
        assert caught.value.position == "6"
        async with connection.transaction():
            with pytest.raises(asyncpg.UndefinedFileError):
                async with connection.transaction():
                    await connection.execute("COPY photos OPTIONS () FROM 'nothing'")
            assert await connection.fetchval("SELECT to_regclass('photos')") is None


class TestModels:
    async def test_build_tells_its_progress(self, connection: asyncpg.Connection) -> None:
        notices: list[str] = []
        connection.add_log_listener(lambda _con, message: notices.append(message.message))
        row = await connection.fetchrow(build("by_asyncpg"))
        assert list(row.keys()) == RESULT
        assert tuple(row)[:4] == ("by_asyncpg", 1, ["blue", "red"], 24)
        assert shows_an_epoch(notices)
        assert await connection.execute("DROP MODEL by_asyncpg") == "DROP MODEL"

    async def test_predict(self, connection: asyncpg.Connection, predicted: Predicted) -> None:
        found = await connection.fetch(PREDICT)
        assert list(found[0].keys()) == COLUMNS
        assert [tuple(row) for row in found] == predicted

    async def test_a_prepared_predict(self, connection: asyncpg.Connection, predicted: Predicted) -> None:
        text = "PREDICT USING colours AS SELECT id, image, label FROM pictures WHERE label = $1 AND id < $2 ORDER BY id"
        prepared = await connection.prepare(text)
        assert [attribute.name for attribute in prepared.get_attributes()] == COLUMNS
        assert [attribute.type.name for attribute in prepared.get_attributes()] == ["int4", "text", "text", "text"]
        assert [parameter.name for parameter in prepared.get_parameters()] == ["text", "int4"]
        for label, end in (("red", 10), ("blue", 20), ("green", 24)):
            found = [tuple(row) for row in await prepared.fetch(label, end)]
            assert found == [row for row in predicted if row[2] == label and row[0] < end]
        assert prepared.get_statusmsg() == "SELECT 0"

    async def test_the_statement_cache(self, connection: asyncpg.Connection, predicted: Predicted) -> None:
        text = PREDICT.replace("ORDER", "WHERE id = $1 ORDER")
        for i in (3, 1, 2):
            assert tuple(await connection.fetchrow(text, i)) == predicted[i]
            assert await connection.fetchval("SELECT $1::int", i) == i

    async def test_a_cursor(self, connection: asyncpg.Connection, predicted: Predicted) -> None:
        async with connection.transaction():
            assert [tuple(row) async for row in connection.cursor(PREDICT, prefetch=7)] == predicted
            cursor = await connection.cursor(PREDICT)
            assert [tuple(row) for row in await cursor.fetch(2)] == predicted[:2]
            assert await connection.fetchval("SELECT 'between'") == "between"
            assert [tuple(row) for row in await cursor.fetch(30)] == predicted[2:]

    async def test_a_failure_in_a_transaction(self, connection: asyncpg.Connection) -> None:
        async with connection.transaction():
            await connection.execute("CREATE TEMP TABLE t (a int)")
            with pytest.raises(asyncpg.UndefinedFileError, match=r"gone\.png"):
                async with connection.transaction():
                    await connection.fetch("PREDICT USING colours AS SELECT $1::text AS image", "gone.png")
            assert await connection.fetchval("SELECT count(*) FROM t") == 0
        with pytest.raises(asyncpg.UndefinedObjectError) as caught:
            await connection.fetch("PREDICT USING nobody AS TABLE pictures")
        assert caught.value.position == "15"
        assert await connection.fetchval("SELECT 1") == 1

    async def test_a_timeout_cancels(self, connection: asyncpg.Connection, predicted: Predicted) -> None:
        with pytest.raises(TimeoutError):
            await connection.fetch(ENDLESS, timeout=0.5)
        assert [tuple(row) for row in await connection.fetch(PREDICT)] == predicted
