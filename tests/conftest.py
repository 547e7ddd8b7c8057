"""What every test may ask for: a real PostgreSQL, databases in it, and the photos and weights that lie outside the repository."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest

from tests.databases import Database, numbers
from tests.serving import Proxy, paint_images, running_proxy
from thanoproxy.catalog.install import install
from thanoproxy.embedded import EmbeddedPostgres, temporary_directory

# As in worker processes (`thanoproxy.workers.spawning`), and for the same reason; OpenMP reads it once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

TEMPLATE = "thanosql_template"

T = TypeVar("T")


LONG = (
    "commands/test_demo.py",
    "test_main_job.py",
    "workers/test_ranks.py",
    "workers/test_local.py",
    "workers/test_quarantine.py",
    "isolation/test_isolation.py",
    "test_crash.py",
    "workers/test_attached.py",
    "fronts/test_serving.py",
    "workers/test_decoding.py",
    "commands/test_cli.py",
)
"""Files of few tests that take half a minute and more, longest first."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of several processes that are given file after file, none is to begin with a long one when the others are done."""
    if hasattr(config, "workerinput"):
        tests = Counter(item.path for item in items)
        long = {Path(__file__).parent / name: at for at, name in enumerate(LONG)}
        items.sort(key=lambda item: (long.get(item.path, len(LONG)), -tests[item.path]))


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Tell of a failure when it happens, not only at the end: a run that is stopped from outside never comes to its summary."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:
        config.pluginmanager.register(Failures(terminal))
    config.option.loadscopereorder = False  # pytest-xdist's own order; see below


class Failures:
    """One line for each test that fails."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = crash.message if crash else str(report.longrepr)
            self._terminal.ensure_newline()
            self._terminal.write_line(f"{report.when} of {report.nodeid} failed: {reason.strip()[:600]}")


def run_aside(work: Coroutine[Any, Any, T]) -> T:
    """What `work` comes to, run on a loop of its own, wherever we are: the tests' loop is not disturbed."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def make_database(postgres: EmbeddedPostgres, template: str) -> Iterator[Database]:
    name = f"test_{next(numbers)}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield Database(postgres, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """One PostgreSQL 18 for the whole run."""
    with (
        temporary_directory("thanoproxy-test-") as folder,
        EmbeddedPostgres(folder / "pg", durable=False, copy_binaries=True, tied=True) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> str:
    """A database with our schema in it, to be copied."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {TEMPLATE}")
    run_aside(install(Database(postgres, TEMPLATE).url))
    return TEMPLATE


@pytest.fixture
def empty_database(postgres: EmbeddedPostgres) -> Iterator[Database]:
    """A new database without our schema."""
    yield from make_database(postgres, "template1")


@pytest.fixture
def database(postgres: EmbeddedPostgres, template: str) -> Iterator[Database]:
    """A new database with our schema."""
    yield from make_database(postgres, template)


@pytest.fixture(scope="module")
def module_database(postgres: EmbeddedPostgres, template: str) -> Iterator[Database]:
    """The same for a whole module, where making one for each test would cost too much."""
    yield from make_database(postgres, template)


def data_folder() -> Path | None:
    """The folder with `data/` and `weights/`: $THANOPROXY_TEST_DATA, or `../shared` beside the repository; None if it is not there."""
    named = os.environ.get("THANOPROXY_TEST_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    return folder if (folder / "data").is_dir() and (folder / "weights").is_dir() else None


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with real photos and weights."""
    folder = data_folder()
    if folder is None:
        pytest.skip("no photos and weights for tests (set THANOPROXY_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def image_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small images, `red/0.png` to `blue/11.png`."""
    folder = tmp_path_factory.mktemp("images")
    paint_images(folder)
    return folder


@pytest.fixture(scope="session")
def proxy(postgres: EmbeddedPostgres, template: str, image_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """One proxy for the whole run, with its workers in a thread; photos and weights of the test data are in reach if they exist."""
    data = data_folder()
    images = [image_root, *([data / "data" / "cat_and_dog"] if data else [])]
    weights = [data / "weights"] if data else []
    files = {"files": {"roots": [tmp_path_factory.mktemp("files")]}}
    with running_proxy(postgres.url, images, tmp_path_factory.mktemp("artifacts"), weights=weights, more=files) as running:
        yield running
