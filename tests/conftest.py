"""What every test may ask for: a real PostgreSQL, databases in it, and the photos and weights that lie outside the repository."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from thanoproxy.catalog.install import install
from thanoproxy.embedded import EmbeddedPostgres, temporary_directory

TEMPLATE = "thanosql_template"
_numbers = itertools.count(1)


def run_aside(work: Coroutine[object, object, object]) -> None:
    """Run `work` to its end on a loop of its own, wherever we are: the tests' loop is not disturbed."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()


@dataclass(frozen=True)
class Database:
    """One database of the test server, and what it takes to connect to it."""

    postgres: EmbeddedPostgres
    name: str

    @property
    def url(self) -> str:
        """As the superuser."""
        return self.url_of("postgres", self.postgres.password)

    def url_of(self, role: str, password: str) -> str:
        return f"postgresql://{role}:{password}@127.0.0.1:{self.postgres.port}/{self.name}"

    def add_role(self, prefix: str = "role", *, attributes: str = "LOGIN") -> tuple[str, str]:
        """A new role, as (its name, the URL to connect as it).  Roles belong to the server, so names are never used twice."""
        name, password = f"{prefix}_{next(_numbers)}", secrets.token_hex(8)
        self.execute(f"CREATE ROLE {name} {attributes} PASSWORD '{password}'")
        return name, self.url_of(name, password)

    def execute(self, *statements: str) -> None:
        """Run statements as the superuser, each in its own transaction."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)


def make_database(postgres: EmbeddedPostgres, template: str) -> Iterator[Database]:
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield Database(postgres, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """One PostgreSQL 18 for the whole run."""
    with temporary_directory("thanoproxy-test-") as folder, EmbeddedPostgres(folder / "pg", durable=False) as server:
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


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with `data/` and `weights/`: $THANOPROXY_TEST_DATA, or `../shared` beside the repository."""
    named = os.environ.get("THANOPROXY_TEST_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data").is_dir() or not (folder / "weights").is_dir():
        pytest.skip(f"no test data in {folder} (set THANOPROXY_TEST_DATA)")
    return folder
