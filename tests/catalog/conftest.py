"""The catalogue's tests run on PostgreSQL 18, and on the machine's own PostgreSQL 15 where it has one (Debian's)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.conftest import make_database, run_aside
from tests.databases import Database
from tests.ports import free_port
from thanoproxy.catalog import store
from thanoproxy.catalog.install import install
from thanoproxy.catalog.records import ModelRecord
from thanoproxy.embedded import temporary_directory
from thanoproxy.embedded.account import account_for

OLD = Path("/usr/lib/postgresql/15/bin")


@dataclass(frozen=True)
class OldPostgres:
    """Stands in for `EmbeddedPostgres` where only a place to connect to is asked for."""

    port: int
    password: str

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/postgres"


@pytest.fixture(scope="session")
def old_postgres() -> Iterator[OldPostgres]:
    """The oldest PostgreSQL that we support, as its distribution built it."""
    if not OLD.is_dir():
        pytest.skip(f"no PostgreSQL 15 in {OLD}")
    with temporary_directory("thanoproxy-test15-") as folder:
        data = folder / "data"
        account = account_for(data)
        data.mkdir()
        account.own(data)
        popen = account.popen_arguments()
        subprocess.run([OLD / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"],
                       check=True, capture_output=True, cwd="/", **popen)  # fmt: skip
        settings = [f"port={(port := free_port())}", "listen_addresses=127.0.0.1", "fsync=off"]
        command = [str(part) for part in (OLD / "postgres", "-D", data, "-k", data)]
        command += (part for setting in settings for part in ("-c", setting))
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **popen)
        try:
            while "ready" not in ((data / "postmaster.pid").read_text() if (data / "postmaster.pid").exists() else ""):
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.02)
            yield OldPostgres(port, "none")
        finally:
            server.terminate()
            server.wait()


@pytest.fixture(scope="session", params=[18, 15])
def any_template(request: pytest.FixtureRequest) -> tuple[OldPostgres, str]:
    """A server, and the name of a database there that has our schema."""
    if request.param == 18:
        return request.getfixturevalue("postgres"), request.getfixturevalue("template")
    server: OldPostgres = request.getfixturevalue("old_postgres")
    run_aside(install(server.url))
    return server, "postgres"


@pytest.fixture
def any_database(any_template: tuple[OldPostgres, str]) -> Iterator[Database]:
    """A new database with our schema, on each version of PostgreSQL in turn."""
    server, template = any_template
    yield from make_database(server, template)  # type: ignore[arg-type]


@pytest.fixture
def connect() -> Iterator[Callable[..., psycopg.Connection]]:
    """Opens connections (autocommit) that are closed with the test."""
    opened = []

    def opener(url: str, **options: object) -> psycopg.Connection:
        connection = psycopg.connect(url, autocommit=True, **options)  # type: ignore[arg-type]
        opened.append(connection)
        return connection

    yield opener
    for connection in opened:
        connection.close()


def make_record(name: str = "pets", owner: str = "postgres", version: int = 1, **changes: object) -> ModelRecord:
    fields: dict[str, object] = {
        "name": name,
        "version": version,
        "owner": owner,
        "architecture": "ConvNeXt_Tiny",
        "artifact": "ab" * 32,
        "classes": ("cat", "dog"),
        "options": {"epochs": 1, "weights": None},
        "metrics": {"validation_accuracy": 0.5, "validation_loss": None},
        "images": 400,
        "size_bytes": 1234,
        "mac": b"\x00\xff",
    }
    return ModelRecord(**{**fields, **changes})  # type: ignore[arg-type]


@dataclass
class Users:
    """Two strangers; `member` belongs to the group `team`."""

    alice: psycopg.Connection
    bob: psycopg.Connection
    member: psycopg.Connection
    team: str

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter((self.alice, self.bob, self.member))


@pytest.fixture
def users(any_database: Database, connect: Callable[..., psycopg.Connection]) -> Users:
    (_, alice), (_, bob), (member, member_url) = (any_database.add_role() for _ in range(3))
    team, _ = any_database.add_role("team", attributes="NOLOGIN")
    any_database.execute(f"GRANT {team} TO {member}")
    return Users(connect(alice), connect(bob), connect(member_url), team)


def build(connection: psycopg.Connection, name: str = "pets", *, overwrite: bool = False) -> None:
    [(owner, version)] = connection.execute(store.reserve_model(name, overwrite)).fetchall()
    connection.execute(store.register_model(make_record(name=name, owner=owner, version=int(version))))


def names(connection: psycopg.Connection) -> list[str]:
    return [row[0] for row in connection.execute(store.list_models())]
