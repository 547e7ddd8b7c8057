"""Every statement of ours, at each thing it does, stopped in each way: within two seconds, with the right code, and nothing is left.

Engine and server do what they always do; where that would be over too soon to be hit, it is made slower.  `test_stopping.py` has what
needs more words.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import psycopg
import pytest

from tests.databases import Database
from tests.serving import Proxy
from tests.session.asking import Connection, fetched, text
from tests.session.test_stopping import wait_for
from thanoproxy.engine import build, exporting, first_stage, uploading
from thanoproxy.engine.frozen import Frozen
from thanoproxy.engine.training import Trainer
from thanoproxy.workers.inline import InlinePool

pytestmark = pytest.mark.alone

SECONDS = 2.0
MANY = "SELECT image, label FROM pictures, generate_series(1, 3000)"
SLOW = "SELECT image, label FROM pictures WHERE id < 23 OR pg_sleep(60) IS NOT NULL"
FEW = "SELECT image, label FROM pictures"


class Case(NamedTuple):
    """`at` is what the statement has come to when it is stopped: a function of the engine, or a moment for what takes long by itself."""

    statement: str
    at: tuple[Any, str, float] | float
    job: bool = True


def training(query: str = FEW, options: str = "epochs=10000", word: str = "BUILD", using: str = "MobileNet_V2") -> str:
    own = "pretrained=false, input_size=32, " if word == "BUILD" else ""
    return f"{word} MODEL stopped USING {using} OPTIONS ({own}overwrite=true, {options}) AS {query}"


CASES = {
    "BUILD, waiting for a row": Case(training(SLOW), 0.25),
    "BUILD, reading rows": Case(training(f"{MANY}, generate_series(1, 100) t"), 0.25),
    "BUILD, loading": Case(training(MANY, "tune='full'"), (first_stage, "_scan", 0)),
    "BUILD, training": Case(training(), (Trainer, "_step", 0.02)),
    "BUILD, validating": Case(training(options="validation_split=0.5, epochs=10000"), (Trainer, "_evaluate", 0.25)),
    "BUILD, saving": Case(training(options="epochs=1, tune='full'"), (build, "save_model", 0.6)),
    "FIT, features": Case(training(MANY, "tune='head'", "FIT", "colours"), (Frozen, "features", 0.02)),
    "FIT, training": Case(training(FEW, "tune='full', epochs=10000", "FIT", "colours"), (Trainer, "_step", 0.02)),
    "EVALUATE, waiting for a row": Case(f"EVALUATE USING colours AS {SLOW}", 0.25),
    "EVALUATE": Case(f"EVALUATE USING colours OPTIONS (cache=false) AS {MANY}", 0.25),
    "PREDICT": Case(f"PREDICT USING colours OPTIONS (cache=false) AS {MANY}", 0.25, job=False),
    "PREDICT, inside": Case(
        f"CREATE TABLE never AS SELECT count(*) FROM (PREDICT USING colours OPTIONS (cache=false) AS {MANY}) p WHERE predicted = ''",
        0.4,
        job=False,
    ),
    "CONVERT": Case(f"CONVERT USING colours OPTIONS (cache=false) AS {MANY}", 0.25, job=False),
    "EXPORT": Case("EXPORT MODEL colours TO 'stopped.safetensors'", (exporting, "_write_all", 0.03)),
    "UPLOAD": Case("UPLOAD MODEL stopped FROM 'whole.safetensors'", (uploading, "_put_all", 0.6)),
}


@pytest.fixture(scope="module")
def files(proxy: Proxy, url: str) -> Path:
    """The folder for files, with an exported model in it."""
    folder: Path = proxy.server.settings.files.roots[0]
    with psycopg.connect(url, autocommit=True) as connection:
        (folder / "whole.safetensors").unlink(missing_ok=True)
        connection.execute("EXPORT MODEL colours TO 'whole.safetensors'")
    return folder


@pytest.fixture
def observer(module_database: Database, url: str) -> Iterator[Connection]:
    """A connection past the proxy, with no jobs in the log."""
    with psycopg.connect(module_database.url, autocommit=True) as connection:
        connection.execute("DELETE FROM thanosql.job")
        yield connection


class Running(Thread):
    """A statement on a connection of its own, from its start to the error that ends it."""

    def __init__(self, url: str, statement: str, timeout: str = "0") -> None:
        super().__init__()
        self.connection = psycopg.connect(url, autocommit=True)
        self.connection.execute(text(f"SET statement_timeout = '{timeout}'"))
        self.pid = self.connection.info.backend_pid
        self.problem: psycopg.Error | None = None
        self._statement = statement
        self.start()

    def run(self) -> None:
        try:
            self.connection.execute(text(self._statement))
        except psycopg.Error as problem:
            self.problem = problem

    def disconnect(self) -> None:
        with socket.socket(fileno=os.dup(self.connection.fileno())) as copy:
            copy.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def run(url: str) -> Iterator[Callable[[str, str], Running]]:
    """Begins a statement with that statement_timeout; its connection is closed in the end."""
    begun = list[Running]()

    def begin(statement: str, timeout: str) -> Running:
        begun.append(Running(url, statement, timeout))
        return begun[-1]

    yield begin
    for one in begun:
        one.connection.close()


def slowed(function: Callable[..., Any], seconds: float, reached: Event) -> Callable[..., Any]:
    def slower(*arguments: Any, **more: Any) -> Any:
        reached.set()
        time.sleep(seconds)
        return function(*arguments, **more)

    return slower


def attended(proxy: Proxy) -> int:
    """How many sessions have a statement of ours in flight."""

    async def count() -> int:
        return sum("_attention" in repr(task.get_coro()) for task in asyncio.all_tasks())

    return asyncio.run_coroutine_threadsafe(count(), proxy.loop).result(10)


def at_work(proxy: Proxy) -> bool:
    """Whether the worker does anything, on any of its threads."""
    pool = proxy.server.pool
    assert isinstance(pool, InlinePool)
    assert pool._device_loop is not None
    return bool(pool._device_loop._builds or pool._device_loop._at_work())


def canceled(running: Running, observer: Connection) -> tuple[str, ...]:
    running.connection.cancel_safe()
    return ("57014",)


def timed_out(running: Running, observer: Connection) -> tuple[str, ...]:
    return ("57014",)


def terminated(running: Running, observer: Connection) -> tuple[str, ...]:
    observer.execute("SELECT pg_terminate_backend(%s)", [running.pid])
    return ("57P01", "")  # a server that is stopped in the middle of a row says no more


def disconnected(running: Running, observer: Connection) -> tuple[str, ...]:
    running.disconnect()
    return ("",)


@pytest.mark.parametrize("stop", [canceled, timed_out, terminated, disconnected])
@pytest.mark.parametrize("name", CASES)
def test_stop(
    url: str, run: Callable[[str, str], Running], proxy: Proxy, observer: Connection, files: Path, monkeypatch: pytest.MonkeyPatch,
    name: str, stop: Callable[[Running, Connection], tuple[str, ...]],
) -> None:  # fmt: skip
    case, reached = CASES[name], Event()
    monkeypatch.setattr(exporting, "_PART", 1 << 16)
    if not isinstance(case.at, float):
        place, function, seconds = case.at
        monkeypatch.setattr(place, function, slowed(getattr(place, function), seconds, reached))
    limit = 0.6 if stop is timed_out else 0.0
    running = run(case.statement, f"{limit}s")
    began = time.monotonic()
    if isinstance(case.at, float):
        time.sleep(case.at)
    else:
        assert reached.wait(limit or 20) or stop is timed_out
    if stop is timed_out:
        time.sleep(max(0.0, began + limit - time.monotonic()))
    at = time.monotonic()
    codes = stop(running, observer)
    running.join(SECONDS)
    assert not running.is_alive()
    assert time.monotonic() - at < SECONDS
    assert running.problem is not None
    assert (running.problem.sqlstate or "") in codes
    if stop in (canceled, timed_out):
        assert fetched(running.connection, "SELECT 1") == [(1,)]
    # The server's process is idle or gone, the device is free, and the job is over.
    rest = at + SECONDS - time.monotonic()
    wait_for(observer, f"SELECT count(*) FROM pg_stat_activity WHERE pid = {running.pid} AND state <> 'idle'", 0, seconds=rest)
    with psycopg.connect(url) as other:
        assert len(fetched(other, "PREDICT USING colours OPTIONS (cache=false) AS SELECT image FROM pictures LIMIT 1")) == 1
    if case.job:
        wait_for(observer, "SELECT state FROM thanosql.jobs", "canceled", seconds=rest)
        [(code, why)] = fetched(observer, "SELECT sqlstate, error FROM thanosql.jobs")
        assert code == "57014"
        assert {canceled: "user request", timed_out: "statement timeout"}.get(stop, "") in why
    assert time.monotonic() - at < SECONDS + 1.5, "on two cores that others use, too"
    # Nothing is left behind.
    assert fetched(observer, "SELECT name FROM thanosql.models WHERE name <> 'colours'") == []
    assert fetched(observer, "SELECT to_regclass('never')") == [(None,)]
    assert not (files / "stopped.safetensors").exists()
    assert proxy.server._spool is not None
    spool = Path(proxy.server._spool.path)
    while left := [*files.glob(".tmp*"), *(file for file in spool.iterdir() if file.name != "owner")]:
        assert time.monotonic() - at < SECONDS + 1.5, left
        time.sleep(0.05)
    while at_work(proxy):
        assert time.monotonic() - at < SECONDS + 1.5, "the worker goes on with it"
        time.sleep(0.02)
    while attended(proxy):
        assert time.monotonic() - at < SECONDS + 1.5, "the session's task waits for a server that is gone"
        time.sleep(0.05)
