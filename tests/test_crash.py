"""kill -9 of the proxy in the middle of a BUILD: nothing half-made is left, and the job shows why it ended."""

from __future__ import annotations

import json
import os
import re
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
from tests.ports import free_port
from tests.rawwire import RawClient
from tests.serving import small_model
from thanoproxy.wire.messages import query

LONG = b"BUILD MODEL half USING MobileNet_V2 OPTIONS (pretrained=false, input_size=64, epochs=10000) AS SELECT image, label FROM pictures"


@contextmanager
def serving(database: Database, images: Path, artifacts: Path, *words: str, **more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`thanoproxy serve` as a process of its own, with real workers; its process and a URL through it.

    `words` are more arguments, and `more` is more of its environment.
    """
    port = free_port()
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
            # A BUILD is resumed, but a third worker is the last that it may cost.
            killed, dying, told = list[int](), False, set[bytes]()
            kind, notice = raw.read()
            while kind == "N":
                dying = dying and b"resumes the training" not in notice
                # While a worker starts, what the last one had done is told again.
                if (done := re.search(rb"training: (\d+)/", notice)) and done[1] not in told:
                    told.add(done[1])
                    if not dying:
                        killed += children_of(process.pid)
                        os.kill(killed[-1], signal.SIGKILL)
                        dying = True
                kind, notice = raw.read()
            assert (kind, len(killed)) == ("E", 3)
            assert b"C58000" in notice
            assert raw.quiet() == ["Z[I]"]
            assert raw.talk(query(b"SELECT 1"))[-1] == "Z[I]"


@pytest.mark.timeout(180)
def test_a_build_survives_its_worker(database: Database, image_root: Path, tmp_path: Path) -> None:
    """Killed in the third of six epochs: the client gets a warning, and the very weights that it would have got."""
    build = (
        "BUILD MODEL {} USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32, epochs=6, batch_size=4, seed=7) "
        "AS SELECT image, label FROM pictures"
    )
    artifacts, spools = tmp_path / "artifacts", tmp_path / "spools"
    spools.mkdir()
    with serving(database, image_root, artifacts, TMPDIR=str(spools)) as (process, url):
        small_model(url)
        with psycopg.connect(url, autocommit=True) as connection:
            whole = connection.execute(build.format("whole")).fetchone()  # type: ignore[arg-type]
            notices: list[tuple[str | None, ...]] = []

            def kill_in_the_third(diagnostic: psycopg.errors.Diagnostic) -> None:
                notices.append((diagnostic.severity, diagnostic.sqlstate, diagnostic.message_detail))
                if str(diagnostic.message_primary).startswith("epoch 2") and ("WARNING", "01000") not in [one[:2] for one in notices]:
                    (worker,) = children_of(process.pid)
                    os.kill(worker, signal.SIGKILL)

            connection.add_notice_handler(kill_in_the_third)
            resumed = connection.execute(build.format("resumed")).fetchone()  # type: ignore[arg-type]
            assert whole is not None
            assert resumed is not None
            assert resumed[2:5] == whole[2:5]
            assert [one for one in notices if one[0] != "NOTICE"] == [("WARNING", "01000", "It was ended by signal 9.")]
            found = connection.execute("SELECT artifact FROM thanosql.model_versions WHERE name IN ('whole', 'resumed')").fetchall()
            digests = {json.loads((artifacts / "manifests" / f"{one}.json").read_text())["weights_sha256"] for (one,) in found}
            assert (len(found), len(digests)) == (2, 1)
            log = connection.execute("SELECT epoch FROM thanosql.training_log WHERE model = 'resumed' ORDER BY epoch").fetchall()
            assert [epoch for (epoch,) in log] == [1, 2, 3, 4, 5, 6]
            assert connection.execute("SELECT state FROM thanosql.jobs WHERE model = 'resumed'").fetchone() == ("done",)
            assert not list(spools.rglob("thanoproxy-spool-*"))
