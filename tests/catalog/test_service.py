"""The job log: what other sessions see of a running job, and what is left when something dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest

from tests.databases import Database, numbers
from thanoproxy.catalog import service as module
from thanoproxy.catalog.install import install
from thanoproxy.catalog.service import Service
from thanoproxy.embedded import EmbeddedPostgres
from thanoproxy.errors import Canceled, DataError, InsufficientPrivilege, NotInstalled, UpstreamUnavailable
from thanoproxy.workers import jobs

Connect = Callable[..., psycopg.Connection]
GONE = "the proxy that ran this job is gone"


@pytest.fixture
async def service(database: Database) -> AsyncIterator[Service]:
    opened = Service(database.url)
    yield opened
    await opened.close()


def epoch(number: int, loss: float = 0.5) -> jobs.Epoch:
    return jobs.Epoch(epoch=number, loss=loss, accuracy=0.8, validation_loss=None, validation_accuracy=0.7, learning_rate=1e-3, seconds=2.5)


def progress(job: str, phase: Any = "training", done: int = 10, *, ended: jobs.Epoch | None = None) -> jobs.Progress:
    return jobs.Progress(
        job=job,
        phase=phase,
        images_done=done,
        images_total=40,
        images_per_second=5.0,
        loss=0.5,
        accuracy=0.8,
        seconds_left=6.0,
        epoch=ended,
    )


def built(job: str, *log: jobs.Epoch) -> jobs.Built:
    return jobs.Built(
        job=job, artifact="ab", architecture="X", classes=["a"], images=40, metrics={"validation_accuracy": 0.9}, options={},
        size_bytes=1, seconds=1.0, log=list(log),
    )  # fmt: skip


def one(database: Database, query: str) -> dict[str, object]:
    with psycopg.connect(database.url, row_factory=psycopg.rows.dict_row) as connection:
        [row] = connection.execute(query).fetchall()
        return dict(row)


async def begun(service: Service, database: str, *job: Any) -> str:
    """A job whose row is there."""
    identity = service.begin(database, *job)
    await service.start(database)
    return identity


async def settle(service: Service, database: Database) -> None:
    """Progress is written in the background; what is written after it and waited for comes later."""
    await service.start(database.name)


async def test_a_job_from_begin_to_done(service: Service, database: Database) -> None:
    job = await begun(service, database.name, "BUILD", "pets", "postgres", 4711)
    row = one(database, "SELECT * FROM thanosql.jobs")
    assert (str(row["id"]), row["kind"], row["model"], row["state"], row["role"], row["pid"]) == (
        job, "BUILD", "pets", "running", "postgres", 4711,
    )  # fmt: skip
    service.progress(database.name, job, progress(job, "queued"))
    await settle(service, database)
    assert one(database, "SELECT state FROM thanosql.jobs") == {"state": "queued"}
    service.progress(database.name, job, progress(job, ended=epoch(1)))
    await settle(service, database)
    shown = "SELECT state, phase, images_done, images_total, images_per_second, loss, eta > now() AS ahead FROM thanosql.jobs"
    assert one(database, shown) == {
        "state": "running", "phase": "training", "images_done": 10, "images_total": 40,
        "images_per_second": 5.0, "loss": 0.5, "ahead": True,
    }  # fmt: skip
    assert one(database, "SELECT model, version, epoch, loss FROM thanosql.training_log") == {
        "model": "pets", "version": None, "epoch": 1, "loss": 0.5,
    }  # fmt: skip
    saving = jobs.Progress(job=job, phase="saving", images_done=0, images_total=0, images_per_second=0.0)
    service.progress(database.name, job, saving)
    await settle(service, database)
    assert one(database, shown.replace(" eta > now() AS ahead", " eta")) == {
        "state": "running", "phase": "saving", "images_done": 10, "images_total": 40,
        "images_per_second": 5.0, "loss": 0.5, "eta": None,
    }  # fmt: skip
    await service.finish(database.name, job, built(job, epoch(1, 0.4), epoch(2)), 3)
    assert one(database, "SELECT state, version, accuracy, images_done, eta, error FROM thanosql.jobs") == {
        "state": "done", "version": 3, "accuracy": 0.9, "images_done": 40, "eta": None, "error": None,
    }  # fmt: skip
    assert one(database, "SELECT count(*), sum(version), max(loss) FROM thanosql.training_log") == {
        "count": 2,
        "sum": 6,
        "max": 0.5,
    }


@pytest.mark.parametrize(("error", "state"), [(DataError("one class only"), "failed"), (Canceled("stop"), "canceled")])
async def test_a_job_that_fails(service: Service, database: Database, error: DataError, state: str) -> None:
    job = await begun(service, database.name, "BUILD", "pets", "postgres", 1)
    await service.fail(database.name, job, error.sqlstate, error.message)
    assert one(database, "SELECT state, error, sqlstate FROM thanosql.jobs") == {
        "state": state, "error": error.message, "sqlstate": error.sqlstate,
    }  # fmt: skip


async def test_jobs_are_seen_by_their_role_alone(service: Service, database: Database) -> None:
    (alice, alice_url), (_, bob_url) = database.add_role(), database.add_role()
    job = await begun(service, database.name, "BUILD", "pets", alice, 1)
    await service.finish(database.name, job, built(job, epoch(1)), 1)
    for url, rows in ((alice_url, 1), (bob_url, 0)):
        with psycopg.connect(url) as connection:
            for table in ("jobs", "training_log"):
                assert len(connection.execute(f"SELECT * FROM thanosql.{table}").fetchall()) == rows


async def test_a_job_whose_proxy_died_shows_as_failed(database: Database) -> None:
    dead, successor = Service(database.url), Service(database.url)
    await begun(dead, database.name, "BUILD", "pets", "postgres", 1)
    await dead.close()
    assert one(database, "SELECT state, error FROM thanosql.jobs") == {"state": "failed", "error": GONE}
    assert one(database, "SELECT state FROM thanosql.job") == {"state": "running"}
    await successor.start(database.name)
    assert one(database, "SELECT state, error, finished_at IS NULL AS open FROM thanosql.job") == {
        "state": "failed", "error": GONE, "open": False,
    }  # fmt: skip
    await successor.close()


async def test_a_second_proxy_leaves_the_jobs_of_the_first_alone(service: Service, database: Database) -> None:
    other = Service(database.url)
    await begun(service, database.name, "BUILD", "pets", "postgres", 1)
    await other.start(database.name)
    assert one(database, "SELECT state FROM thanosql.jobs") == {"state": "running"}
    await other.close()


async def test_a_job_outlives_the_connection_that_shows_it(service: Service, database: Database) -> None:
    job = await begun(service, database.name, "BUILD", "pets", "postgres", 1)
    database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'thanoproxy'")
    await asyncio.sleep(0.2)
    assert one(database, "SELECT state FROM thanosql.jobs") == {"state": "failed"}
    service.progress(database.name, job, progress(job))
    await settle(service, database)
    assert one(database, "SELECT state, error, images_done FROM thanosql.jobs") == {
        "state": "running",
        "error": None,
        "images_done": 10,
    }
    await service.finish(database.name, job, built(job), 1)
    assert one(database, "SELECT state FROM thanosql.jobs") == {"state": "done"}


async def test_a_job_taken_for_dead_comes_back(service: Service, database: Database) -> None:
    job = await begun(service, database.name, "BUILD", "pets", "postgres", 1)
    database.execute(f"UPDATE thanosql.job SET state = 'failed', error = '{GONE}', finished_at = now()")
    service.progress(database.name, job, progress(job))
    await settle(service, database)
    assert one(database, "SELECT state, error, finished_at FROM thanosql.jobs") == {
        "state": "running",
        "error": None,
        "finished_at": None,
    }


async def test_without_a_schema_or_a_server_jobs_run_unseen(
    empty_database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url, database in ((empty_database.url, empty_database.name), ("postgresql://x:y@127.0.0.1:1/x", "x")):
        service = Service(url)
        with caplog.at_level(logging.WARNING):
            job = await begun(service, database, "BUILD", "pets", "postgres", 1)
            service.progress(database, job, progress(job))
            await service.finish(database, job, built(job), 1)
            await service.fail(database, job, "22000", "x")
        await service.close()
    assert "too old" in caplog.text
    assert "cannot connect" in caplog.text


async def test_nobody_waits_for_a_database_that_hangs(
    service: Service, database: Database, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    blocker = connect(database.url)
    blocker.execute("BEGIN; LOCK thanosql.job")
    job = service.begin(database.name, "BUILD", "pets", "postgres", 1)
    for _ in range(module.BACKLOG + 10):
        service.progress(database.name, job, progress(job))
    await asyncio.wait_for(service.finish(database.name, job, built(job), 1), 5)
    blocker.execute("ROLLBACK")


async def test_connections_end_when_no_job_runs(service: Service, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.05)
    ours = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'thanoproxy' AND datname = '{database.name}'"
    job = await begun(service, database.name, "BUILD", "pets", "postgres", 1)
    await asyncio.sleep(0.3)
    assert one(database, ours) == {"count": 1}
    await service.finish(database.name, job, built(job), 1)
    for _ in range(200):
        await asyncio.sleep(0.01)
        if one(database, ours) == {"count": 0}:
            break
    else:
        pytest.fail("still connected")
    await begun(service, database.name, "BUILD", "pets", "postgres", 1)
    assert one(database, "SELECT count(*) FROM thanosql.jobs WHERE state = 'running'") == {"count": 1}


async def test_a_database_can_be_dropped_soon_after_a_job(service: Service, database: Database) -> None:
    """The server waits for our connection to go, but not for long."""
    job = await begun(service, database.name, "BUILD", "pets", "postgres", 1)
    await service.finish(database.name, job, built(job), 1)
    elsewhere = Database(database.postgres, "postgres")
    await asyncio.to_thread(elsewhere.execute, f"DROP DATABASE {database.name}", f"CREATE DATABASE {database.name}")


async def test_a_database_whose_encoding_has_not_every_character(postgres: EmbeddedPostgres) -> None:
    latin = Database(postgres, f"latin_{next(numbers)}")
    anywhere = Database(postgres, "postgres")
    anywhere.execute(f"CREATE DATABASE {latin.name} ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0")
    service = Service(latin.url)
    try:
        await install(latin.url)
        job = await begun(service, latin.name, "BUILD", "pets", "postgres", 1)
        await service.fail(latin.name, job, "XX001", "artifact d3f3… cannot be used")
        row = one(latin, "SELECT state, error FROM thanosql.jobs")
        assert row == {"state": "failed", "error": "artifact d3f3? cannot be used"}
    finally:
        await service.close()
        anywhere.execute(f"DROP DATABASE {latin.name} WITH (FORCE)")


async def test_a_catalogue_that_a_user_owns_is_not_touched(empty_database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """A trigger on its tables would run as us."""
    role, url = empty_database.add_role()
    empty_database.execute(f"ALTER DATABASE {empty_database.name} OWNER TO {role}")
    own = Service(url)
    await install(url)
    await own.check_installed(empty_database.name)
    service = Service(empty_database.url)
    with pytest.raises(InsufficientPrivilege, match=f'belongs to "{role}"'):
        await service.check_installed(empty_database.name)
    with pytest.raises(InsufficientPrivilege, match=f'role "{role}"'):
        await install(empty_database.url)
    await begun(service, empty_database.name, "BUILD", "pets", "postgres", 1)
    assert f'belongs to "{role}"' in caplog.text
    assert one(empty_database, "SELECT count(*) FROM thanosql.job") == {"count": 0}
    await service.close()
    await own.close()


async def test_checking_a_database(service: Service, database: Database, empty_database: Database) -> None:
    await service.check_installed(database.name)
    with pytest.raises(NotInstalled, match=empty_database.name) as caught:
        await service.check_installed(empty_database.name)
    assert "thanoproxy init" in str(caught.value.hint)
    with pytest.raises(UpstreamUnavailable):
        await service.check_installed("no_such_database")
