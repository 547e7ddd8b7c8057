"""Cancel, timeouts and lost clients: what runs is stopped within seconds, and nothing else is touched."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from threading import Timer

import psycopg
import pytest
from psycopg import errors

from tests.databases import Database
from tests.rawwire import RawClient
from thanoproxy.session import collect
from thanoproxy.wire.messages import query
from thanoproxy.workers.spool import SpoolWriter

pytestmark = pytest.mark.alone

LONG = "BUILD MODEL endless USING MobileNet_V2 OPTIONS (pretrained=false, input_size=64, epochs=10000) AS SELECT image, label FROM pictures"
MANY = "PREDICT USING colours AS SELECT image FROM pictures, generate_series(1, 1000000)"


@pytest.fixture
def observer(module_database: Database) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A connection past the proxy."""
    with psycopg.connect(module_database.url, autocommit=True) as connection:
        yield connection


def cancel_soon(connection: psycopg.Connection[tuple[object, ...]], seconds: float = 1.0) -> Timer:
    timer = Timer(seconds, connection.cancel_safe)
    timer.start()
    return timer


def wait_for(observer: psycopg.Connection[tuple[object, ...]], question: str, answer: object, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while (found := observer.execute(question).fetchone()) != (answer,):
        assert time.monotonic() < end, f"{question}: {found}, not {answer}"
        time.sleep(0.05)


@pytest.mark.parametrize("statement", [LONG, MANY, f"SELECT 1; {LONG}; SELECT 2", f"SELECT 1; {MANY}; SELECT 2"])
def test_cancel(connection: psycopg.Connection[tuple[object, ...]], statement: str) -> None:
    timer = cancel_soon(connection)
    start = time.monotonic()
    with pytest.raises(errors.QueryCanceled, match="user request"):
        connection.execute(statement)
    assert time.monotonic() - start < 3.5
    timer.join()
    assert connection.execute("SELECT 1").fetchone() == (1,)


ENDLESS = (
    "SELECT image, CASE WHEN i < 3 THEN label END AS label FROM (SELECT generate_series(1, 100000000) i) g, (TABLE pictures LIMIT 1) p"
)


@pytest.mark.parametrize("string", ["{}", "SELECT 1; {}; SELECT 2"])
def test_a_row_that_a_build_cannot_use_stops_its_query(
    connection: psycopg.Connection[tuple[object, ...]], observer: psycopg.Connection[tuple[object, ...]], string: str
) -> None:
    start = time.monotonic()
    with pytest.raises(errors.NullValueNotAllowed, match="the label of row 3 is NULL"):
        connection.execute(string.format(f"BUILD MODEL n USING MobileNet_V2 OPTIONS (pretrained=false) AS {ENDLESS}"))
    assert time.monotonic() - start < 3
    wait_for(observer, "SELECT state FROM thanosql.jobs WHERE model = 'n' ORDER BY started_at DESC LIMIT 1", "failed")
    assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("string", ["{}", "SELECT 1; {}; SELECT 2"])
def test_rows_that_the_disk_has_no_room_for(
    connection: psycopg.Connection[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch, string: str
) -> None:
    class Full(SpoolWriter):
        def __init__(self, directory: str) -> None:
            super().__init__(directory)
            self._file.close()
            self._file = open("/dev/full", "wb")  # noqa: SIM115 - closed by `discard`

    monkeypatch.setattr(collect, "SpoolWriter", Full)
    many = "SELECT image, label FROM pictures, generate_series(1, 100000)"
    with pytest.raises(errors.IoError, match="cannot be kept: No space left on device") as caught:
        connection.execute(string.format(f"BUILD MODEL n USING MobileNet_V2 OPTIONS (pretrained=false) AS {many}"))
    assert "TMPDIR" in str(caught.value.diag.message_hint)
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_late_cancel_hits_nothing(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    connection.execute("PREDICT USING colours AS SELECT image FROM pictures")
    connection.cancel_safe()
    assert len(connection.execute("PREDICT USING colours AS SELECT image FROM pictures").fetchall()) == 24


@pytest.mark.parametrize("statement", [LONG, MANY, f"SELECT 1; {LONG}"])
def test_statement_timeout(connection: psycopg.Connection[tuple[object, ...]], statement: str) -> None:
    connection.execute("SET statement_timeout = '900ms'")
    start = time.monotonic()
    with pytest.raises(errors.QueryCanceled, match="statement timeout"):
        connection.execute(statement)
    assert 0.8 < time.monotonic() - start < 3.0
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_canceled_build_leaves_a_canceled_job_and_no_model(
    connection: psycopg.Connection[tuple[object, ...]], observer: psycopg.Connection[tuple[object, ...]]
) -> None:
    cancel_soon(connection)
    with pytest.raises(errors.QueryCanceled):
        connection.execute(LONG)
    wait_for(observer, "SELECT state FROM thanosql.jobs WHERE model = 'endless' ORDER BY started_at DESC LIMIT 1", "canceled")
    wait_for(observer, "SELECT count(*) FROM thanosql.models WHERE name = 'endless'", 0)


def test_others_see_a_running_job(
    url: str, connection: psycopg.Connection[tuple[object, ...]], observer: psycopg.Connection[tuple[object, ...]]
) -> None:
    with RawClient(url) as raw:
        raw.send(query(LONG.encode()))
        wait_for(observer, f"SELECT state FROM thanosql.jobs WHERE pid = {raw.pid}", "running")
        wait_for(
            observer,
            f"SELECT count(*) >= 2 FROM thanosql.training_log l JOIN thanosql.jobs j ON l.job = j.id WHERE j.pid = {raw.pid}",
            True,
            seconds=15,
        )
        assert connection.execute("SELECT 'meanwhile'").fetchone() == ("meanwhile",)
        raw.socket.shutdown(socket.SHUT_RDWR)
    wait_for(observer, f"SELECT state FROM thanosql.jobs WHERE pid = {raw.pid}", "canceled")
    wait_for(observer, f"SELECT count(*) FROM pg_stat_activity WHERE pid = {raw.pid}", 0)


def test_the_backend_is_terminated(url: str, observer: psycopg.Connection[tuple[object, ...]]) -> None:
    with RawClient(url) as raw:
        raw.send(query(LONG.encode()))
        wait_for(observer, f"SELECT state FROM thanosql.jobs WHERE pid = {raw.pid}", "running")
        observer.execute("SELECT pg_terminate_backend(%s)", (raw.pid,))
        kind, body = raw.read()
        while kind == "N":
            kind, body = raw.read()
        assert kind == "E"
        assert b"57P01" in body
    wait_for(observer, f"SELECT state IN ('canceled', 'failed') FROM thanosql.jobs WHERE pid = {raw.pid}", True)


QUITE_MANY = "PREDICT USING colours OPTIONS (cache=false) AS SELECT image FROM pictures, generate_series(1, 2000)"
"""The server has sent all of its rows long before they are predicted."""


@pytest.mark.parametrize("statement", [QUITE_MANY, f"SELECT count(*) FROM ({QUITE_MANY}) t GROUP BY predicted", MANY])
def test_the_backend_is_terminated_while_its_rows_wait(url: str, observer: psycopg.Connection[tuple[object, ...]], statement: str) -> None:
    with RawClient(url) as raw:
        raw.send(query(statement.encode()))
        time.sleep(1)
        start = time.monotonic()
        observer.execute("SELECT pg_terminate_backend(%s)", (raw.pid,))
        kind, body = raw.read()
        try:
            while kind in "TDN":
                kind, body = raw.read()
        except EOFError:  # a server that is stopped in the middle of a row says no more
            assert statement == MANY
        else:
            assert (kind, b"57P01" in body) == ("E", True)
        assert time.monotonic() - start < 2


def test_a_slow_reader_bounds_what_is_computed(url: str, observer: psycopg.Connection[tuple[object, ...]]) -> None:
    """A client that stops reading stops the server: the cursor below has given few rows though millions are there."""
    wide = "PREDICT USING colours AS SELECT image, repeat('x', 20000) FROM pictures, generate_series(1, 1000000)"
    with RawClient(url) as raw:
        raw.send(query(wide.encode()))
        wait_for(
            observer,
            f"SELECT wait_event = 'ClientWrite' FROM pg_stat_activity WHERE pid = {raw.pid}",
            True,
            seconds=20,
        )


def test_the_first_row_does_not_wait_for_the_last(url: str) -> None:
    # Wide rows, since PostgreSQL itself keeps rows back until 8 KB of them are there.
    wide = "SELECT image, repeat('x', 10000) FROM pictures WHERE id < 20 AND (id < 10 OR pg_sleep(0.3) IS NOT NULL)"
    slow = f"PREDICT USING colours AS {wide}"
    with RawClient(url) as raw:
        start = time.monotonic()
        raw.send(query(slow.encode()))
        while raw.read()[0] != "D":
            pass
        assert time.monotonic() - start < 1.5
        while raw.read()[0] != "Z":
            pass
        assert time.monotonic() - start > 2.5


def test_a_cancel_at_the_server_while_it_waits_at_the_gate(
    url: str, connection: psycopg.Connection[tuple[object, ...]], observer: psycopg.Connection[tuple[object, ...]]
) -> None:
    """pg_cancel_backend does not pass the proxy; the server's own error ends the job, and is told once."""
    pid = connection.info.backend_pid

    def cancel() -> None:
        observer.execute("SELECT pg_cancel_backend(%s)", (pid,))

    timer = Timer(1.5, cancel)
    timer.start()
    with pytest.raises(errors.QueryCanceled):
        connection.execute(f"SELECT 1; {LONG}; SELECT 2")
    timer.join()
    assert connection.execute("SELECT 1").fetchone() == (1,)
    wait_for(observer, "SELECT count(*) FROM thanosql.jobs WHERE state = 'running'", 0)
