"""kill -9 of the proxy in the middle of a BUILD: nothing half-made is left, and the job shows why it ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.databases import Database
from tests.rawwire import RawClient
from tests.serving import small_model
from thanoproxy.wire.messages import query

LONG = b"BUILD MODEL half USING MobileNet_V2 OPTIONS (pretrained=false, input_size=64, epochs=10000) AS SELECT image, label FROM pictures"


@contextmanager
def serving(database: Database, images: Path, artifacts: Path, *words: str, **more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`thanoproxy serve` as a process of its own, with real workers; its process and a URL through it.

    `words` are more arguments, and `more` is more of its environment.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "thanoproxy", "serve", "--listen", f"127.0.0.1:{port}", "--upstream", database.url]
    environment = {**os.environ, "THANOPROXY_ARTIFACTS__URL": artifacts.as_uri(), **more}
    process = subprocess.Popen([*command, "--image-root", str(images), *words], env=environment, stdout=subprocess.DEVNULL, text=True)
    url = database.url.replace(f":{database.postgres.port}/", f":{port}/")
    try:
        wait_until(lambda: listens(port), 60)
        yield process, url
    finally:
        process.terminate()
        process.wait(30)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: object, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "not in time"
        time.sleep(0.1)


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(line) for line in found.split()]


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.timeout(180)
def test_killed_in_the_middle_of_a_build(database: Database, image_root: Path, tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"

    def ask(question: str) -> object:
        with psycopg.connect(database.url, autocommit=True) as past:
            row = past.execute(question).fetchone()
            return row[0] if row else None

    with serving(database, image_root, artifacts) as (process, url):
        small_model(url)
        kept = sorted(path.name for path in artifacts.rglob("*") if path.is_file())
        workers = children_of(process.pid)
        assert workers
        with RawClient(url) as raw:
            raw.send(query(LONG))
            wait_until(lambda: ask("SELECT phase FROM thanosql.jobs WHERE model = 'half'") == "training", 60)
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        wait_until(lambda: ask("SELECT state FROM thanosql.jobs WHERE model = 'half'") == "failed")
        wait_until(lambda: not any(map(alive, workers)))
    with serving(database, image_root, artifacts) as (_, url):
        wait_until(lambda: ask("SELECT state FROM thanosql.job WHERE model = 'half'") == "failed")
        assert ask("SELECT error FROM thanosql.jobs WHERE model = 'half'") == "the proxy that ran this job is gone"
        assert ask("SELECT string_agg(name, ',') FROM thanosql.models") == "colours"
        assert sorted(path.name for path in artifacts.rglob("*") if path.is_file()) == kept
        with psycopg.connect(url) as connection:
            assert len(connection.execute("PREDICT USING colours AS TABLE pictures").fetchall()) == 24


@pytest.mark.timeout(120)
def test_a_killed_worker_is_replaced(database: Database, image_root: Path, tmp_path: Path) -> None:
    with serving(database, image_root, tmp_path / "artifacts") as (process, url):
        small_model(url)
        with psycopg.connect(url, autocommit=True) as connection:
            (worker,) = children_of(process.pid)
            os.kill(worker, signal.SIGKILL)
            assert connection.execute("SELECT 'untouched'").fetchone() == ("untouched",)
            assert len(connection.execute("PREDICT USING colours AS TABLE pictures").fetchall()) == 24
        with RawClient(url) as raw:
            raw.send(query(LONG))
            while raw.read()[0] != "N":
                pass
            os.kill(children_of(process.pid)[0], signal.SIGKILL)
            replies = raw.quiet(seconds=3)
            assert any(reply.startswith("E[58000") for reply in replies)
            assert raw.talk(query(b"SELECT 1"))[-1] == "Z[I]"
