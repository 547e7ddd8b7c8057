"""Statements of ours in the simple protocol, as psql sends them."""

from __future__ import annotations

import contextlib

import psycopg
import pytest
from psycopg import errors

from tests.rawwire import RawClient
from thanoproxy.wire.messages import copy_data, copy_done, message, query

Connection = psycopg.Connection[tuple[object, ...]]


def send(connection: Connection, text: str) -> list[psycopg.pq.abc.PGresult]:
    """Send one simple Query (psycopg does, for text without parameters) and return each of its results; an error is raised."""
    with connection.cursor() as cursor:
        cursor.execute(text)
        results = [cursor.pgresult]
        while cursor.nextset():
            results.append(cursor.pgresult)
    return [result for result in results if result is not None]


def rows(result: psycopg.pq.abc.PGresult) -> list[tuple[bytes | None, ...]]:
    return [tuple(result.get_value(i, j) for j in range(result.nfields)) for i in range(result.ntuples)]


def status(connection: Connection) -> psycopg.pq.TransactionStatus:
    return psycopg.pq.TransactionStatus(connection.pgconn.transaction_status)


def test_predict_adds_one_column_and_keeps_the_order(connection: Connection) -> None:
    (result,) = send(connection, "PREDICT USING colours AS SELECT id, image FROM pictures ORDER BY id DESC")
    assert [result.fname(i) for i in range(result.nfields)] == [b"id", b"image", b"predicted"]
    found = rows(result)
    assert [int(row[0] or b"-1") for row in found] == list(range(23, -1, -1))
    assert {row[2] for row in found} <= {b"red", b"blue"}
    assert result.command_status == b"SELECT 24"


def test_parentheses_semicolon_and_comments(connection: Connection) -> None:
    (result,) = send(connection, "-- hello\n predict /* a /* b */ */ USING colours as (SELECT image FROM pictures LIMIT 2) ; -- bye")
    assert result.ntuples == 2


def test_no_rows(connection: Connection) -> None:
    (result,) = send(connection, "PREDICT USING colours AS SELECT * FROM pictures WHERE false")
    assert (result.ntuples, result.nfields, result.command_status) == (0, 4, b"SELECT 0")


def test_a_null_image_has_a_null_prediction(connection: Connection) -> None:
    (result,) = send(connection, "PREDICT USING colours AS SELECT NULL::text AS image")
    assert rows(result) == [(None, None)]


def test_bytea_images(connection: Connection, image_root: object) -> None:
    data = (image_root / "red" / "0.png").read_bytes().hex()  # type: ignore[operator]
    (result,) = send(connection, f"PREDICT USING colours AS SELECT '\\x{data}'::bytea AS image")
    assert rows(result)[0][1] in (b"red", b"blue")


def test_result_col(connection: Connection) -> None:
    (result,) = send(connection, "PREDICT USING colours OPTIONS (result_col='Was ist es') AS SELECT image FROM pictures LIMIT 1")
    assert result.fname(1) == b"Was ist es"


def test_list_model(connection: Connection) -> None:
    (result,) = send(connection, "LIST MODEL")
    assert [result.fname(i) for i in range(3)] == [b"name", b"class_name", b"last_updated_utc"]
    assert (b"colours", b"MobileNet_V2") in {row[:2] for row in rows(result)}


class TestStrings:
    """Several statements in one Query are one Query to PostgreSQL."""

    def test_results_come_in_order(self, connection: Connection) -> None:
        text = "SELECT 1 AS a; PREDICT USING colours AS SELECT image FROM pictures LIMIT 3; SELECT 2 AS b; LIST MODEL"
        first, second, third, fourth = send(connection, text)
        assert rows(first) == [(b"1",)]
        assert (second.ntuples, second.command_status) == (3, b"SELECT 3")
        assert rows(third) == [(b"2",)]
        assert fourth.fname(0) == b"name"

    def test_a_syntax_error_anywhere_means_nothing_runs(self, connection: Connection) -> None:
        text = "CREATE TABLE never (a int); PREDICT USING colours AS SELECT image FROM pictures; SELCT 1"
        with pytest.raises(errors.SyntaxError) as caught:
            send(connection, text)
        assert caught.value.diag.statement_position == str(text.index("SELCT") + 1)
        assert connection.execute("SELECT to_regclass('never')").fetchone() == (None,)

    def test_our_failure_rolls_the_whole_string_back(self, connection: Connection) -> None:
        with pytest.raises(errors.UndefinedObject):
            send(connection, "CREATE TABLE never (a int); PREDICT USING nobody AS SELECT image FROM pictures; SELECT 1")
        assert connection.execute("SELECT to_regclass('never')").fetchone() == (None,)

    def test_a_missing_image_rolls_the_whole_string_back(self, connection: Connection) -> None:
        with pytest.raises(errors.UndefinedFile):
            send(connection, "CREATE TABLE never (a int); PREDICT USING colours AS SELECT 'gone.png' AS image; SELECT 1")
        assert connection.execute("SELECT to_regclass('never')").fetchone() == (None,)

    def test_lock_and_set_local_work_as_in_any_string(self, connection: Connection) -> None:
        text = "LOCK pictures; SET LOCAL work_mem = '7MB'; PREDICT USING colours AS SELECT image FROM pictures LIMIT 1; SHOW work_mem"
        assert rows(send(connection, text)[-1]) == [(b"7MB",)]

    def test_build_and_drop(self, connection: Connection) -> None:
        build = "BUILD MODEL brief USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32, epochs=1) AS SELECT * FROM pictures"
        built, predicted, dropped = send(connection, f"{build}; PREDICT USING brief AS TABLE pictures; DROP MODEL brief")
        assert rows(built)[0][:2] == (b"brief", b"1")
        assert predicted.ntuples == 24
        assert dropped.command_status == b"DROP MODEL"

    def test_copy_in_before_ours(self, url: str) -> None:
        with RawClient(url) as raw:
            raw.talk(query(b"CREATE TEMP TABLE more (image text)"))
            assert raw.quiet(query(b"COPY more FROM STDIN; PREDICT USING colours AS TABLE more")) == ["G"]
            replies = raw.talk(copy_data(b"red/1.png\nblue/1.png\n"), copy_done())
            assert [reply for reply in replies if reply[0] != "D"] == [
                "C[COPY 2]",
                "T[image:25/0,predicted:25/0]",
                "C[SELECT 2]",
                "Z[I]",
            ]

    def test_read_only_says_what_to_do(self, connection: Connection) -> None:
        with pytest.raises(errors.FeatureNotSupported, match="read-only") as caught:
            send(connection, "BEGIN READ ONLY; PREDICT USING colours AS SELECT image FROM pictures LIMIT 1; COMMIT")
        assert caught.value.diag.message_hint == "Send it by itself."
        connection.execute("ROLLBACK")


class TestTransactions:
    def test_read_only(self, connection: Connection) -> None:
        connection.execute("BEGIN READ ONLY")
        assert len(send(connection, "PREDICT USING colours AS SELECT image FROM pictures")) == 1
        connection.execute("COMMIT")

    def test_our_failure_fails_the_block(self, connection: Connection) -> None:
        connection.execute("BEGIN")
        with pytest.raises(errors.UndefinedObject):
            send(connection, "PREDICT USING nobody AS SELECT image FROM pictures")
        assert status(connection) == psycopg.pq.TransactionStatus.INERROR
        with pytest.raises(errors.InFailedSqlTransaction):
            send(connection, "PREDICT USING colours AS SELECT image FROM pictures")
        connection.execute("ROLLBACK")
        assert status(connection) == psycopg.pq.TransactionStatus.IDLE

    def test_build_obeys_rollback_and_savepoint(self, connection: Connection) -> None:
        build = "BUILD MODEL shy USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32, epochs=1) AS SELECT * FROM pictures"
        connection.execute("BEGIN")
        connection.execute("SAVEPOINT before")
        send(connection, build)
        assert send(connection, "PREDICT USING shy AS SELECT image FROM pictures LIMIT 1")[0].ntuples == 1
        connection.execute("ROLLBACK TO before")
        with pytest.raises(errors.UndefinedObject):
            send(connection, "PREDICT USING shy AS SELECT image FROM pictures LIMIT 1")
        connection.execute("ROLLBACK")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1; PREDICT USING colours AS SELECT id, image FROM pictures WHERE id = 1",
        "PREDICT USING colours AS SELECT id, image FROM pictures WHERE id = 1",
        "ALTER MODEL colours SET VERSION 1",
        "LIST MODEL",
    ],
)
def test_a_client_that_leaves_at_once_is_answered_first(url: str, statement: str) -> None:
    """As by PostgreSQL, which reads the Terminate when it is done with what came before."""
    with RawClient(url) as raw:
        raw.send(query(statement.encode()), message(b"X"))
        replies = list[str]()
        with contextlib.suppress(EOFError):
            while True:
                replies.append(raw.read()[0])
    assert replies[-2:] == ["C", "Z"]
