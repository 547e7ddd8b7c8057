"""pg_dump and a copy of the artifact folder bring every model back, and what was made with it: on another server, behind another proxy."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString, NamedTuple, cast

import psycopg
import pytest
from psycopg import errors

from tests.conftest import run_aside
from tests.databases import Database, numbers
from tests.serving import Proxy, running_proxy, small_model
from thanoproxy.catalog.install import install
from thanoproxy.embedded import EmbeddedPostgres, temporary_directory
from thanoproxy.embedded.binaries import find_binaries

Connection = psycopg.Connection[tuple[Any, ...]]

PREDICT = "PREDICT USING {} AS SELECT id, image FROM pictures ORDER BY id"
READ = {
    "the model": PREDICT.format("colours"),
    "an older version": PREDICT.format("colours@1"),
    "a model that was renamed": PREDICT.format("renamed"),
    "a view": "SELECT * FROM shown ORDER BY id",
    "a materialized view": "SELECT * FROM held ORDER BY id",
    "a materialized view of another role": "SELECT * FROM theirs ORDER BY id",
    "what is granted": "SELECT name, version, owner, privileges, metrics FROM thanosql.models ORDER BY name",
    "every version": (
        "SELECT name, version, current, owner, architecture, classes, options, metrics, images, size_bytes, artifact, sealed_name, job "
        "FROM thanosql.model_versions ORDER BY name, version"
    ),
    "the grants": "SELECT name, owner, grantee, grantor, granted_at FROM thanosql.model_grant ORDER BY name, grantee",
    "the training log": "SELECT * FROM thanosql.training_log WHERE version < 3 ORDER BY model, version, epoch",
    "the jobs": "SELECT id, kind, model, version, state, error, accuracy, started_at FROM thanosql.jobs WHERE version < 3 ORDER BY id",
    "how it was trained": "SELECT property, value FROM (DESCRIBE MODEL colours) ORDER BY property",
}


class Sides(NamedTuple):
    """Sessions of the superuser before and behind the dump, and the other role's URL behind it."""

    before: Connection
    behind: Connection
    role: str
    url: str


def rows(connection: Connection, statement: str) -> list[tuple[Any, ...]]:
    return connection.execute(cast(LiteralString, statement)).fetchall()


def program(name: str, *words: str) -> bytes:
    """One of PostgreSQL's, of the version that the servers have."""
    done = subprocess.run([find_binaries().folder / name, *words], check=False, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture(scope="module")
def restored(
    proxy: Proxy, postgres: EmbeddedPostgres, module_database: Database, image_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sides]:
    role, _ = module_database.add_role("analyst")
    url = proxy.url(module_database)
    small_model(url)
    folder = tmp_path_factory.mktemp("restored")
    with psycopg.connect(url, autocommit=True) as before:
        fill(before, role)
        # First the dump, then the files: those that it names are there, whatever is built meanwhile.
        program("pg_dump", module_database.url, "--file", str(folder / "dump.sql"))
        shutil.copytree(proxy.server.settings.artifacts.folder, folder / "artifacts")
        with (
            temporary_directory("thanoproxy-test-") as place,
            EmbeddedPostgres(place / "pg", durable=False, copy_binaries=True, tied=True) as other,
        ):
            database = Database(other, f"restored_{next(numbers)}")
            with psycopg.connect(other.url, autocommit=True) as connection:
                connection.execute(cast(LiteralString, f"CREATE ROLE {role} LOGIN PASSWORD 'secret'"))
                connection.execute(cast(LiteralString, f"CREATE DATABASE {database.name}"))
            program("psql", database.url, "-Xq", "--set=ON_ERROR_STOP=1", "--single-transaction", "--file", str(folder / "dump.sql"))
            run_aside(install(database.url))
            with (
                running_proxy(other.url, [image_root], folder / "artifacts") as another,
                psycopg.connect(another.url(database), autocommit=True) as behind,
            ):
                yield Sides(before, behind, role, another.url(database, role, "secret"))


def fill(connection: Connection, role: str) -> None:
    build = (
        "BUILD MODEL {} USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32, epochs=1, augment=false, validation_split=0, "
        "overwrite=true, seed=7) AS SELECT image, label FROM pictures"
    )
    for statement in (
        build.format("colours"),
        build.format("old_name"),
        "ALTER MODEL old_name RENAME TO renamed",
        f"ALTER MODEL renamed OWNER TO {role}",
        f"GRANT USAGE ON MODEL colours TO {role}",
        f"GRANT CREATE ON SCHEMA public TO {role}",
        f"GRANT SELECT ON pictures TO {role}",
        "CREATE VIEW shown AS PREDICT USING colours AS SELECT id, image FROM pictures",
        "CREATE MATERIALIZED VIEW held AS SELECT id, predicted FROM (PREDICT USING colours AS SELECT id, image FROM pictures) p",
        f"SET ROLE {role}",
        "CREATE MATERIALIZED VIEW theirs AS PREDICT USING renamed AS SELECT id, image FROM pictures",
        "RESET ROLE",
    ):
        connection.execute(cast(LiteralString, statement))


@pytest.mark.parametrize("what", READ)
def test_everything_is_as_it_was(restored: Sides, what: str) -> None:
    found = rows(restored.before, READ[what])
    assert found
    assert rows(restored.behind, READ[what]) == found


def test_a_new_version_follows_the_old_ones(restored: Sides) -> None:
    restored.behind.execute("BEGIN")
    [(_, version, *_)] = rows(
        restored.behind,
        "BUILD MODEL colours USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32, epochs=1, validation_split=0, overwrite=true) "
        "AS SELECT image, label FROM pictures",
    )
    restored.behind.execute("ROLLBACK")
    assert version == 3


def test_a_materialized_view_is_refreshed_by_its_owner(restored: Sides) -> None:
    restored.behind.execute("REFRESH MATERIALIZED VIEW held")
    with pytest.raises(errors.InsufficientPrivilege):
        restored.behind.execute("REFRESH MATERIALIZED VIEW theirs")
    with psycopg.connect(restored.url) as theirs:
        theirs.execute("REFRESH MATERIALIZED VIEW theirs")
        assert rows(theirs, "TABLE theirs ORDER BY id") == rows(restored.before, "TABLE theirs ORDER BY id")


def test_rights_are_as_they_were(restored: Sides) -> None:
    with psycopg.connect(restored.url, autocommit=True) as theirs:
        assert rows(theirs, PREDICT.format("colours"))
        with pytest.raises(errors.InsufficientPrivilege):
            theirs.execute("DROP MODEL colours")
        theirs.execute("BEGIN; DROP MODEL renamed; ROLLBACK")


def test_without_the_old_key_the_error_names_it(
    restored: Sides, proxy: Proxy, module_database: Database, image_root: Path, tmp_path: Path
) -> None:
    shutil.copytree(proxy.server.settings.artifacts.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("seal.key"))
    with (
        running_proxy(module_database.url, [image_root], tmp_path / "copy") as other,
        psycopg.connect(other.url(module_database)) as connection,
        pytest.raises(errors.InsufficientPrivilege) as caught,
    ):
        connection.execute(cast(LiteralString, PREDICT.format("colours")))
    assert "seal.key" in str(caught.value.diag.message_hint)


def test_a_copy_whose_key_others_may_read_is_refused(proxy: Proxy, image_root: Path, postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    shutil.copytree(proxy.server.settings.artifacts.folder, tmp_path / "copy")
    os.chmod(tmp_path / "copy" / "seal.key", 0o644)
    with pytest.raises(Exception, match="chmod 600"), running_proxy(postgres.url, [image_root], tmp_path / "copy"):
        pass
