"""What others see of a job, and what its client hears meanwhile: every BUILD, FIT, EVALUATE, EXPORT and UPLOAD, in every way to run one."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from itertools import pairwise

import psycopg
import pytest
from psycopg import errors, sql

from tests.databases import Database
from tests.rawwire import RawClient
from tests.serving import Proxy
from tests.session.asking import Connection, fetched, text
from tests.session.test_stopping import wait_for
from thanoproxy.session import reporting
from thanoproxy.wire.messages import query

EVALUATE = "EVALUATE USING colours AS SELECT image, label FROM pictures"
BUILD = "BUILD MODEL {} USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32, epochs=1, validation_split=0, overwrite=true) AS {}"
SHOWN = "SELECT kind, model, version, state, phase, images_done, images_total, role, error, sqlstate FROM thanosql.jobs"


@pytest.fixture
def observer(url: str, module_database: Database) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A connection past the proxy, with no jobs in the log."""
    with psycopg.connect(module_database.url, autocommit=True) as connection:
        connection.execute("DELETE FROM thanosql.job WHERE finished_at IS NOT NULL")
        yield connection


def the_job(observer: Connection) -> tuple[object, ...]:
    """The one that there is, once it is over: an EVALUATE's answer does not wait for its row."""
    wait_for(observer, "SELECT count(*) FROM thanosql.job WHERE finished_at IS NOT NULL", 1)
    [row] = fetched(observer, SHOWN)
    return row


WAYS = {
    "alone": EVALUATE,
    "inside": f"SELECT count(*) FROM ({EVALUATE}) t",
    "in a string": f"SELECT 1; {EVALUATE}; SELECT 2",
    "inside, in a string": f"SELECT 1; SELECT count(*) FROM ({EVALUATE}) t; SELECT 2",
    "explained": f"EXPLAIN ANALYZE {EVALUATE}",
}


@pytest.mark.parametrize(("wanted", "heard"), [("notice", {"NOTICE", "WARNING"}), ("warning", {"WARNING"}), ("error", set())])
def test_clients_hear_what_they_want_to_hear(connection: Connection, wanted: str, heard: set[str]) -> None:
    told = set[str | None]()
    connection.add_notice_handler(lambda notice: told.add(notice.severity_nonlocalized))
    connection.execute(text(f"SET client_min_messages = {wanted}"))
    connection.execute(text(BUILD.format("told", "SELECT image, label FROM pictures")))
    connection.execute("PREDICT USING colours OPTIONS (on_error='null') AS SELECT 'gone.png' AS image")
    assert told == heard
    told.clear()
    connection.execute("SELECT 1; PREDICT USING colours OPTIONS (on_error='null') AS SELECT 'gone.png' AS image")
    assert told == heard - {"NOTICE"}


class TestEvaluate:
    @pytest.mark.parametrize("way", WAYS)
    def test_a_row_of_its_own(self, connection: Connection, observer: Connection, way: str) -> None:
        connection.execute(text(WAYS[way]))
        assert the_job(observer) == ("EVALUATE", "colours", 1, "done", "done", 24, 24, "postgres", None, None)
        found = dict(fetched(connection, EVALUATE))
        assert fetched(observer, "SELECT accuracy FROM thanosql.jobs LIMIT 1") == [(found["accuracy"],)]

    def test_prepared(self, connection: Connection, observer: Connection) -> None:
        connection.execute(f"{EVALUATE} WHERE id < %s", [4], prepare=True)  # type: ignore[arg-type]
        assert the_job(observer)[:7] == ("EVALUATE", "colours", 1, "done", "done", 4, 4)

    def test_what_is_only_explained_is_no_job(self, connection: Connection, observer: Connection) -> None:
        connection.execute(text(f"EXPLAIN {EVALUATE}"))
        connection.execute(text(EVALUATE))
        the_job(observer)

    def test_it_belongs_to_the_role_that_runs_it(self, connection: Connection, observer: Connection, module_database: Database) -> None:
        role, _ = module_database.add_role("auditor", attributes="NOLOGIN")
        for statement in ("GRANT USAGE ON MODEL colours TO {}", "GRANT SELECT ON pictures TO {}", "SET ROLE {}"):
            connection.execute(sql.SQL(statement).format(sql.Identifier(role)))  # type: ignore[arg-type]
        connection.execute(text(EVALUATE))
        assert the_job(observer)[7] == role
        connection.execute("RESET ROLE")
        connection.execute(f"REVOKE USAGE ON MODEL colours FROM {role}; REVOKE SELECT ON pictures FROM {role}")

    def test_others_see_it_run_and_its_client_hears_of_it(self, url: str, observer: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reporting, "PERIOD", 0.3)
        with RawClient(url) as raw:
            raw.send(query(f"{EVALUATE}, generate_series(1, 100000)".encode()))
            kind, body = raw.read()
            while kind == "N" and b" images, " not in body:
                kind, body = raw.read()
            assert (kind, b"evaluating: " in body, b"Rprogress\0" in body) == ("N", True, True)
            running = "state = 'running' AND phase = 'evaluating' AND images_done > 0 AND images_per_second > 0"
            wait_for(observer, f"SELECT {running} FROM thanosql.jobs", True)
            raw.socket.shutdown(socket.SHUT_RDWR)
        assert the_job(observer)[3] == "canceled"

    def test_the_rest_is_known_once_the_rows_are(
        self, connection: Connection, observer: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reporting, "PERIOD", 0.1)
        heard = notices(connection)
        computed = EVALUATE.replace(" AS ", " OPTIONS (cache=false) AS ")
        connection.execute(text(f"{computed}, generate_series(1, 18)"))
        assert any("/432 images, " in said and said.endswith(" s left") for _, said in heard)
        assert the_job(observer)[5:7] == (432, 432)


FAILURES = [
    # statement, SQLSTATE and error of the job
    (f"{EVALUATE} WHERE 1 / (id - 30) < 1 AND 1 / (id - 3) < 1", "22012", "division by zero"),
    ("EVALUATE USING colours AS SELECT 'gone.png' AS image, 'red' AS label", "58P01", 'image file "gone.png" is not available'),
    ("EVALUATE USING colours AS SELECT image, NULL AS label FROM pictures", "22004", "the label of row 1 is NULL"),
    (BUILD.format("bad", "SELECT image, label FROM pictures WHERE 1 / (id - 3) < 1"), "22012", "division by zero"),
    (BUILD.format("bad", "SELECT image, 'one' AS label FROM pictures"), "22000", "all 24 rows have the same label, 'one'"),
    (BUILD.format("bad", "SELECT 'gone.png' AS image, id AS label FROM pictures"), "58P01", 'image file "gone.png" is not available'),
    ("FIT MODEL bad USING colours AS SELECT NULL AS image, label FROM pictures", "22004", "the image of row 1 is NULL"),
    ("EXPORT MODEL colours TO 'nowhere/x.safetensors'", "58P01", 'the folder of "nowhere/x.safetensors" is not available'),
    ("UPLOAD MODEL bad FROM 'gone.safetensors'", "58P01", 'file "gone.safetensors" is not available'),
]


@pytest.mark.parametrize("way", ["alone", "in a string"])
@pytest.mark.parametrize(("statement", "sqlstate", "error"), FAILURES, ids=[case[0][:60] for case in FAILURES])
def test_a_job_that_fails_says_why(
    connection: Connection, observer: Connection, statement: str, sqlstate: str, error: str, way: str
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(text(f"SELECT 1; {statement}" if way == "in a string" else statement))
    assert caught.value.sqlstate == sqlstate
    job = the_job(observer)
    assert (job[0], job[3]) == (statement.split()[0], "failed")
    assert (job[8], job[9]) == (error, sqlstate)


def test_what_never_began_is_no_job(connection: Connection, observer: Connection) -> None:
    for statement in (
        "EVALUATE USING nobody AS SELECT image, label FROM pictures",
        BUILD.format("colours", "SELECT 1 AS image"),
        BUILD.format("colours", "TABLE pictures").replace("overwrite=true", "overwrite=false"),
    ):
        with pytest.raises(psycopg.Error):
            connection.execute(text(statement))
    assert fetched(observer, SHOWN) == []


def test_exports_and_uploads(connection: Connection, observer: Connection) -> None:
    connection.execute("EXPORT MODEL colours TO 'jobs.safetensors'")
    assert the_job(observer)[:5] == ("EXPORT", "colours", 1, "done", "done")
    observer.execute("DELETE FROM thanosql.job")
    connection.execute("SELECT 1; UPLOAD MODEL uploaded FROM 'jobs.safetensors'; DROP MODEL uploaded")
    assert the_job(observer)[:5] == ("UPLOAD", "uploaded", 1, "done", "done")


def notices(connection: Connection) -> list[tuple[float, str]]:
    """When each notice came, and what it said."""
    heard: list[tuple[float, str]] = []
    connection.add_notice_handler(lambda notice: heard.append((time.monotonic(), notice.message_primary or "")))
    return heard


SLOW = "SELECT image, label FROM pictures WHERE id <> 23 OR pg_sleep(1.5) IS NOT NULL"
PHASES = {
    "reading": BUILD.format("slow", SLOW),
    "reading in a string": f"SELECT 1; {BUILD.format('slow', SLOW)}",
    "a FIT that reads": f"FIT MODEL slow USING colours OPTIONS (epochs=1, validation_split=0, overwrite=true) AS {SLOW}",
    "an EVALUATE that reads": EVALUATE.replace("FROM pictures", "FROM pictures WHERE id <> 23 OR pg_sleep(1.5) IS NOT NULL"),
    "training, in few large steps": (
        "BUILD MODEL slow USING MobileNet_V2 OPTIONS (pretrained=false, input_size=224, batch_size=24, epochs=2, tune='full', "
        "validation_split=0.3, overwrite=true) AS SELECT image, label FROM pictures"
    ),
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_client_hears_of_its_job_in_every_phase(connection: Connection, phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never 10 seconds of silence; here the period is shorter."""
    assert reporting.PERIOD <= 8
    monkeypatch.setattr(reporting, "PERIOD", 0.3)
    heard = notices(connection)
    start = time.monotonic()
    connection.execute(text(PHASES[phase]))
    times = [start, *(at for at, _ in heard), time.monotonic()]
    assert max(after - before for before, after in pairwise(times)) < 1.2, heard
    assert len(heard) >= 3
    if "read" in phase:
        assert any(said.startswith(("reading", "evaluating", "waiting")) for _, said in heard)


def test_a_client_hears_that_its_query_waits(connection: Connection, observer: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "PERIOD", 0.2)
    heard = notices(connection)
    with observer.transaction():
        observer.execute("SELECT pg_advisory_xact_lock(7)")
        connection.execute("SET statement_timeout = '1s'")
        with pytest.raises(errors.QueryCanceled):
            connection.execute(
                text(BUILD.format("waits", "SELECT image, label FROM pictures WHERE (SELECT pg_advisory_xact_lock_shared(7)) IS NOT NULL"))
            )
    assert len(heard) >= 2
    job = the_job(observer)
    assert (job[3], job[9]) == ("canceled", "57014")


def test_a_build_that_waits_for_another_says_so(url: str, connection: Connection, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "PERIOD", 0.2)
    heard = notices(connection)
    long = BUILD.format("first", "SELECT image, label FROM pictures").replace("epochs=1", "epochs=10000, max_seconds=2")
    with RawClient(url) as raw:
        raw.send(query(long.encode()))
        while b"training" not in raw.read()[1]:
            pass
        connection.execute(text(BUILD.format("second", "SELECT image, label FROM pictures")))
        while raw.read()[0] != "Z":
            pass
    assert any(said == "queued" for _, said in heard)


@pytest.mark.alone
def test_when_it_will_be_done(url: str, observer: Connection) -> None:
    """The time that is left shrinks as time goes by."""
    long = BUILD.format("timed", "SELECT image, label FROM pictures").replace("epochs=1", "epochs=15, tune='full'")
    left = "SELECT extract(epoch FROM eta - now())::float8 FROM thanosql.jobs WHERE phase = 'training' AND images_done > 48"
    guesses = list[tuple[float, float]]()
    with RawClient(url) as raw:
        raw.send(query(long.encode()))
        while raw.read()[0] != "Z":
            guesses += [(time.monotonic(), float(seconds)) for (seconds,) in fetched(observer, left) if seconds is not None]
    over = time.monotonic()
    assert fetched(observer, "SELECT eta FROM thanosql.jobs") == [(None,)]
    assert len(guesses) > 3
    for at, seconds in guesses:
        assert abs(at + seconds - over) < max(1.0, over - at), "half of the rest, or a second"
