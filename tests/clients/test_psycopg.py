"""psycopg 3: sync and async, pipeline mode, binary results, cursors of every kind, COPY."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from threading import Timer

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.rows import dict_row

from tests.clients.pictures import COLUMNS, ENDLESS, PREDICT, RESULT, Predicted, build, shows_an_epoch

Connection = psycopg.Connection[tuple[object, ...]]
AsyncConnection = psycopg.AsyncConnection[tuple[object, ...]]
ONE = "PREDICT USING colours AS SELECT id, image, label FROM pictures WHERE id = %s"


@pytest.fixture
def connection(url: str) -> Iterator[Connection]:
    with psycopg.connect(url, autocommit=True) as opened:
        yield opened


@pytest.fixture
async def async_connection(url: str) -> AsyncIterator[AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as opened:
        yield opened


class TestOrdinarySQL:
    @pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
    def test_parameters_and_types(self, connection: Connection, binary: bool) -> None:
        values = (7, "Grüße 😀", Decimal("1.50"), True, None, [1, None, 3], b"\xbe\xef")
        query = "SELECT %s::int8, %s::text, %s::numeric, %s::bool, %s::date, %s::int[], %s::bytea"
        assert connection.execute(query, values, binary=binary).fetchone() == values

    def test_a_statement_that_becomes_prepared(self, connection: Connection) -> None:
        assert [connection.execute("SELECT %s::int", (i,)).fetchone() for i in range(8)] == [(i,) for i in range(8)]
        assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (1,)

    def test_an_error_and_going_on(self, connection: Connection) -> None:
        with pytest.raises(errors.DivisionByZero):
            connection.execute("SELECT 1 / %s::int", (0,))
        assert connection.execute("SELECT 1").fetchone() == (1,)

    def test_a_rollback_and_a_savepoint(self, connection: Connection) -> None:
        connection.execute("CREATE TEMP TABLE t (a int)")
        with connection.transaction(force_rollback=True):
            connection.execute("INSERT INTO t VALUES (1)")
            with pytest.raises(errors.UndefinedTable), connection.transaction():
                connection.execute("INSERT INTO nowhere VALUES (1)")
            assert connection.execute("SELECT count(*) FROM t").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)

    def test_executemany_returning(self, connection: Connection) -> None:
        connection.execute("CREATE TEMP TABLE t (a int)")
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO t VALUES (%s) RETURNING a * 2", [(i,) for i in range(3)], returning=True)
            assert [result.fetchall() for result in cursor.results()] == [[(0,)], [(2,)], [(4,)]]

    def test_a_pipeline(self, connection: Connection) -> None:
        with connection.pipeline():
            cursors = [connection.execute("SELECT %s::int", (i,)) for i in range(10)]
            assert [cursor.fetchone() for cursor in cursors] == [(i,) for i in range(10)]

    def test_a_server_side_cursor(self, connection: Connection) -> None:
        with connection.transaction(), connection.cursor("named", scrollable=True) as cursor:
            cursor.execute("SELECT generate_series(1, %s)", (100,))
            assert cursor.fetchmany(3) == [(1,), (2,), (3,)]
            cursor.scroll(90, mode="absolute")
            assert cursor.fetchone() == (91,)

    @pytest.mark.parametrize("options", ["", " (FORMAT binary)"], ids=["text", "binary"])
    def test_copy_in_and_out(self, connection: Connection, options: str) -> None:
        rows = [(i, "x" * i) for i in range(300)]
        connection.execute("CREATE TEMP TABLE t (a int4, b text)")
        with connection.cursor() as cursor:
            with cursor.copy(f"COPY t FROM STDIN{options}") as copy:
                copy.set_types(["int4", "text"])
                for row in rows:
                    copy.write_row(row)
            with cursor.copy(f"COPY t TO STDOUT{options}") as copy:
                copy.set_types(["int4", "text"])
                assert list(copy.rows()) == rows

    def test_copy_that_the_client_gives_up(self, connection: Connection) -> None:
        connection.execute("CREATE TEMP TABLE t (a int)")

        def copy_in() -> None:
            with connection.cursor().copy("COPY t FROM STDIN") as copy:
                copy.write_row((1,))
                raise TimeoutError

        with pytest.raises(TimeoutError):
            copy_in()
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)

    def test_notify(self, connection: Connection) -> None:
        connection.execute("LISTEN psycopg_news")
        connection.execute("SELECT pg_notify('psycopg_news', 'hello')")
        (heard,) = connection.notifies(timeout=5, stop_after=1)
        assert (heard.channel, heard.payload) == ("psycopg_news", "hello")

    def test_cancel(self, connection: Connection) -> None:
        Timer(0.3, connection.cancel_safe).start()
        with pytest.raises(errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(30)")
        assert connection.execute("SELECT 1").fetchone() == (1,)


class TestModels:
    def test_build_tells_its_progress(self, connection: Connection) -> None:
        notices: list[str] = []
        connection.add_notice_handler(lambda diag: notices.append(diag.message_primary or ""))
        cursor = connection.execute(build("by_psycopg"))
        assert [column.name for column in cursor.description or ()] == RESULT
        (row,) = cursor.fetchall()
        assert row[:4] == ("by_psycopg", 1, ["blue", "red"], 24)
        assert shows_an_epoch(notices)
        assert connection.execute("DROP MODEL by_psycopg").statusmessage == "DROP MODEL"

    def test_a_build_that_is_rolled_back(self, connection: Connection) -> None:
        with connection.transaction(force_rollback=True):
            connection.execute(build("by_psycopg"))
            assert len(connection.execute("PREDICT USING by_psycopg AS TABLE pictures").fetchall()) == 24
        with pytest.raises(errors.UndefinedObject):
            connection.execute("PREDICT USING by_psycopg AS TABLE pictures")

    @pytest.mark.parametrize("prepare", [False, True], ids=["plain", "prepared"])
    @pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
    def test_predict(self, connection: Connection, predicted: Predicted, binary: bool, prepare: bool) -> None:
        cursor = connection.cursor(binary=binary)
        assert cursor.execute(PREDICT, prepare=prepare).fetchall() == predicted
        assert [(column.name, column.type_code) for column in cursor.description or ()] == list(zip(COLUMNS, (23, 25, 25, 25), strict=True))
        assert (cursor.rowcount, cursor.statusmessage) == (24, "SELECT 24")

    def test_a_predict_that_becomes_prepared(self, connection: Connection, predicted: Predicted) -> None:
        assert [connection.execute(ONE, (i,)).fetchone() for i in range(8)] == predicted[:8]

    def test_rows_one_by_one(self, connection: Connection, predicted: Predicted) -> None:
        assert list(connection.cursor().stream(PREDICT)) == predicted
        assert list(connection.cursor().stream(PREDICT, size=5)) == predicted

    def test_rows_as_dictionaries_and_composed_text(self, connection: Connection, predicted: Predicted) -> None:
        text = sql.SQL("PREDICT USING {} OPTIONS (result_col={}) AS SELECT image FROM {} WHERE id = {}").format(
            sql.Identifier("colours"), sql.Literal("seen"), sql.Identifier("pictures"), sql.Literal(4)
        )
        row = connection.cursor(row_factory=dict_row).execute(text).fetchone()
        assert row == {"image": predicted[4][1], "seen": predicted[4][3]}

    def test_a_client_side_cursor(self, connection: Connection, predicted: Predicted) -> None:
        assert psycopg.ClientCursor(connection).execute(ONE, (5,)).fetchall() == predicted[5:6]

    def test_executemany(self, connection: Connection, predicted: Predicted) -> None:
        cursor = connection.cursor()
        cursor.executemany(ONE, [(i,) for i in range(4)], returning=True)
        assert [row for result in cursor.results() for row in result.fetchall()] == predicted[:4]

    def test_in_a_pipeline(self, connection: Connection, predicted: Predicted) -> None:
        with connection.pipeline():
            cursors = [connection.execute(text, (i,)) for i in range(7) for text in ("SELECT %s::int", ONE)]
            found = [cursor.fetchone() for cursor in cursors]
        assert found[::2] == [(i,) for i in range(7)]
        assert found[1::2] == predicted[:7]

    def test_a_failure_in_a_pipeline(self, connection: Connection) -> None:
        texts = ("SELECT 1", "PREDICT USING colours AS SELECT 'gone.png' AS image", "SELECT 2")
        cursors = []
        with pytest.raises(errors.UndefinedFile), connection.pipeline():
            cursors.extend(connection.execute(text) for text in texts)
        assert cursors[0].fetchone() == (1,)
        with pytest.raises(psycopg.ProgrammingError, match="no result"):
            cursors[2].fetchone()
        assert connection.execute("SELECT 3").fetchone() == (3,)

    def test_a_server_side_cursor(self, connection: Connection, predicted: Predicted) -> None:
        with connection.transaction(), connection.cursor("named", scrollable=True) as cursor:
            cursor.execute(PREDICT)
            assert cursor.fetchmany(3) == predicted[:3]
            cursor.scroll(20, mode="absolute")
            assert cursor.fetchall() == predicted[20:]

    def test_copy_out(self, connection: Connection, predicted: Predicted) -> None:
        for options in ("", " (FORMAT binary)"):
            with connection.cursor().copy(f"COPY ({PREDICT}) TO STDOUT{options}") as copy:
                copy.set_types(["int4", "text", "text", "text"])
                assert list(copy.rows()) == predicted

    @pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
    @pytest.mark.parametrize("prepare", [False, True], ids=["once", "prepared"])
    def test_inside_other_sql(self, connection: Connection, predicted: Predicted, binary: bool, prepare: bool) -> None:
        text = f"SELECT t.*, upper(predicted) FROM ({PREDICT}) t WHERE id < %s"
        for end in (5, 9):
            found = connection.cursor(binary=binary).execute(text, (end,), prepare=prepare).fetchall()
            assert found == [(*row, row[3].upper()) for row in predicted[:end]]

    def test_cancel(self, connection: Connection) -> None:
        Timer(0.5, connection.cancel_safe).start()
        with pytest.raises(errors.QueryCanceled):
            connection.execute(ENDLESS)
        assert connection.execute("SELECT 1").fetchone() == (1,)


class TestAsync:
    async def test_ordinary_sql(self, async_connection: AsyncConnection) -> None:
        async with async_connection.transaction(force_rollback=True):
            await async_connection.execute("CREATE TABLE psycopg_never (a int)")
            async with async_connection.cursor().copy("COPY psycopg_never FROM STDIN") as copy:
                await copy.write_row((1,))
            cursor = await async_connection.execute("SELECT count(*) FROM psycopg_never")
            assert await cursor.fetchone() == (1,)
        with pytest.raises(errors.UndefinedTable):
            await async_connection.execute("TABLE psycopg_never")

    async def test_build(self, async_connection: AsyncConnection) -> None:
        notices: list[str] = []
        async_connection.add_notice_handler(lambda diag: notices.append(diag.message_primary or ""))
        cursor = await async_connection.execute(build("by_async_psycopg"))
        assert ((await cursor.fetchone()) or ())[:4] == ("by_async_psycopg", 1, ["blue", "red"], 24)
        assert shows_an_epoch(notices)
        await async_connection.execute("DROP MODEL by_async_psycopg")

    async def test_predict(self, async_connection: AsyncConnection, predicted: Predicted) -> None:
        cursor = await async_connection.execute(PREDICT)
        assert await cursor.fetchall() == predicted
        async with async_connection.pipeline():
            cursors = [await async_connection.execute(ONE, (i,)) for i in range(3)]
            assert [await cursor.fetchone() for cursor in cursors] == predicted[:3]
