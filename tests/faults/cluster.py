"""A PostgreSQL of its own, `thanoproxy serve` in front of it, and all processes of both."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import psycopg

from tests.databases import Database
from tests.ports import free_port
from tests.serving import paint_images, small_model
from tests.test_crash import alive, children_of, listens
from thanoproxy.embedded import EmbeddedPostgres, temporary_directory

__all__ = ["Cluster", "running_cluster", "until"]

MARK = "THANOPROXY_FAULTS"
"""In the environment of everything that the proxy starts, so that an orphan is known for what it is."""


def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not in {seconds:.0f} seconds: {what}"
        time.sleep(0.05)


class Cluster:
    """`url` goes through the proxy; `database` is what lies behind it; `labels` is what the model says of each of the pictures."""

    def __init__(self, database: Database, folder: Path, fronts: int, log: TextIO) -> None:
        self.database = database
        self.fronts = fronts
        self.artifacts = folder / "artifacts"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._images = folder / "images"
        paint_images(self._images)
        self._log = log
        self._mark = str(folder)
        self.port = free_port()
        self.url = database.url.replace(f":{database.postgres.port}/", f":{self.port}/")
        self._proxy: subprocess.Popen[bytes] | None = None
        self.labels: list[tuple[object, ...]] = []

    @property
    def proxy(self) -> int:
        """The process that was started: the only front, or the parent of several."""
        assert self._proxy is not None, "started"
        return self._proxy.pid

    def keep_running(self) -> None:
        """What a service manager does."""
        if self._proxy is not None and self._proxy.poll() is None:
            return
        words = ["serve", "--listen", f"127.0.0.1:{self.port}", "--upstream", self.database.url, "--fronts", str(self.fronts)]
        environment = {
            **os.environ,
            "THANOPROXY_ARTIFACTS__URL": self.artifacts.as_uri(),
            "TMPDIR": str(self.temporary),
            MARK: self._mark,
        }
        command = [sys.executable, "-m", "thanoproxy", *words, "--image-root", str(self._images)]
        self._proxy = subprocess.Popen(command, env=environment, stdout=self._log, stderr=self._log)
        until(lambda: listens(self.port), "the proxy listens")

    def close(self) -> None:
        if self._proxy is not None:
            self._proxy.terminate()
            self._proxy.wait(60)
            self._proxy = None

    def processes(self, kind: str) -> list[int]:
        """The children of the proxy of one kind, `workers` or `fronts`; a front may have a worker of its own."""
        fronts = [pid for pid in children_of(self.proxy) if runs(pid, "thanoproxy.fronts.process")]
        if kind == "fronts":
            return fronts
        return [pid for parent in [self.proxy, *fronts] for pid in children_of(parent) if runs(pid, "thanoproxy.workers.process")]

    def everything(self) -> set[int]:
        """Every process that was ever started by a proxy of ours and still lives, whoever its parent is now."""
        wanted = f"{MARK}={self._mark}\0".encode()
        found = set()
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                if wanted in (entry / "environ").read_bytes() + b"\0" and alive(int(entry.name)):
                    found.add(int(entry.name))
        return found

    def ask(self, question: str) -> list[tuple[object, ...]]:
        """PostgreSQL itself, past the proxy; it may be recovering from a crash."""
        end = time.monotonic() + 60
        while True:
            try:
                with psycopg.connect(self.database.url, autocommit=True) as past:
                    return past.execute(question).fetchall()  # type: ignore[arg-type]
            except psycopg.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)


def runs(pid: int, module: str) -> bool:
    with suppress(OSError):
        return module in Path(f"/proc/{pid}/cmdline").read_text()
    return False


@contextmanager
def running_cluster(fronts: int, log: TextIO) -> Iterator[Cluster]:
    """With table `pictures` and model `colours`.  The server is durable: its backends are killed, too."""
    with (
        temporary_directory("faults-") as folder,
        EmbeddedPostgres(folder / "pg", copy_binaries=True, tied=True) as postgres,
    ):
        cluster = Cluster(Database(postgres, "postgres"), folder, fronts, log)
        try:
            cluster.keep_running()
            small_model(cluster.url, "first")
            with psycopg.connect(cluster.url, autocommit=True) as connection:
                connection.execute(
                    "BUILD MODEL colours USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32, epochs=8, batch_size=4) "
                    "AS SELECT image, label FROM pictures"
                )
                known = connection.execute("PREDICT USING colours AS SELECT id, image FROM pictures ORDER BY id")
                cluster.labels = [(row[0], row[-1]) for row in known]
            assert len({label for _, label in cluster.labels}) == 2, "or all answers were the same"
            yield cluster
        finally:
            cluster.close()
