"""Sweeping the artifacts' folder: what goes, and above all what stays while anybody may still need it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg
import pytest

from tests.conftest import run_aside
from tests.databases import Database
from thanoproxy.catalog import store as catalog
from thanoproxy.catalog.artifacts import ArtifactStore, open_store
from thanoproxy.catalog.install import install
from thanoproxy.catalog.records import ModelRecord
from thanoproxy.catalog.sweep import Swept, register, sweep
from thanoproxy.embedded import EmbeddedPostgres, temporary_directory
from thanoproxy.errors import ThanoError

Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """One of its own, since a sweep looks at all databases; with prepared transactions."""
    with temporary_directory("thanoproxy-test-") as folder:
        with EmbeddedPostgres(folder / "pg", durable=False, copy_binaries=True, tied=True) as first:
            Database(first, "postgres").execute("ALTER SYSTEM SET max_prepared_transactions = 5", "CREATE DATABASE shop")
            run_aside(install(Database(first, "shop").url))
        with EmbeddedPostgres(folder / "pg", durable=False, copy_binaries=True, tied=True) as running:
            yield running


@pytest.fixture
def shop(server: EmbeddedPostgres) -> Database:
    return Database(server, "shop")


@pytest.fixture
def session(shop: Database) -> Iterator[Connection]:
    with psycopg.connect(shop.url, autocommit=True) as connection:
        yield connection
        connection.execute("ROLLBACK")
        connection.execute("DELETE FROM thanosql.model")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store(str(tmp_path))


def saved(store: ArtifactStore, weights: bytes = b"weights") -> str:
    return store.save(weights, architecture="A", classes=["a"], preprocessing={}, metrics={}, options={}, software={}).id


def registered(session: Connection, artifact: str, name: str = "m") -> None:
    record = ModelRecord(
        name=name, version=1, owner="postgres", architecture="A", artifact=artifact, classes=("a",), options={}, metrics={}, images=1,
        size_bytes=1, mac=b"seal",
    )  # fmt: skip
    session.execute(cast(LiteralString, catalog.register_model(record)))


def swept(shop: Database, store: ArtifactStore, keep: float = 0, *, dry_run: bool = False) -> list[Swept]:
    found: list[Swept] = []

    async def work() -> None:
        found.extend(await sweep(shop.url, store, keep, dry_run=dry_run))

    run_aside(work())
    return found


def there(store: ArtifactStore, artifact: str) -> bool:
    return store.files.has(f"manifests/{artifact}.json")


def sweep_all(shop: Database, store: ArtifactStore) -> None:
    """Mark and delete manifests, then weights."""
    for _ in range(3):
        swept(shop, store)


def test_the_first_sweep_marks_and_a_later_one_deletes(shop: Database, session: Connection, store: ArtifactStore) -> None:
    kept, gone = saved(store), saved(store, b"others")
    registered(session, kept)
    assert [(one.key, one.deleted) for one in swept(shop, store)] == [(f"manifests/{gone}.json", False)]
    assert there(store, gone)
    assert [(one.key, one.deleted) for one in swept(shop, store)] == [(f"manifests/{gone}.json", True)]
    assert not there(store, gone)
    sweep_all(shop, store)
    assert len(list(store.files.keys("weights"))) == 1
    assert store.weights(kept, store.manifest(kept)) == b"weights"
    assert list(store.files.keys("unused")) == []


def test_what_a_crash_left_half_written_goes_after_a_day(shop: Database, store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    old, new = tmp_path / "weights" / ".tmp-old", tmp_path / "weights" / ".tmp-new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert swept(shop, store, dry_run=True) == []
    assert old.exists()
    assert swept(shop, store) == []
    assert (old.exists(), new.exists()) == (False, True)


def test_weights_that_two_artifacts_share_stay_with_the_other(shop: Database, session: Connection, store: ArtifactStore) -> None:
    kept, gone = saved(store), saved(store)
    registered(session, kept)
    sweep_all(shop, store)
    assert (there(store, kept), there(store, gone)) == (True, False)
    assert store.weights(kept, store.manifest(kept)) == b"weights"


def test_nothing_is_deleted_before_its_time(shop: Database, session: Connection, store: ArtifactStore) -> None:
    gone = saved(store)
    for _ in range(3):
        assert not any(one.deleted for one in swept(shop, store, 3600))
    assert there(store, gone)


def test_a_dry_run_changes_nothing(shop: Database, session: Connection, store: ArtifactStore, tmp_path: Path) -> None:
    gone = saved(store)
    swept(shop, store, dry_run=True)
    assert not (tmp_path / "unused").exists()
    swept(shop, store)
    assert [one.deleted for one in swept(shop, store, dry_run=True)] == [True]
    assert there(store, gone)


def test_an_open_transaction_keeps_what_it_may_have_registered(shop: Database, session: Connection, store: ArtifactStore) -> None:
    session.execute("BEGIN")
    session.execute("SELECT 1")
    artifact = saved(store)
    sweep_all(shop, store)  # built, and not registered yet
    assert there(store, artifact)
    registered(session, artifact)
    sweep_all(shop, store)  # registered, and not committed yet
    assert there(store, artifact)
    session.execute("COMMIT")
    sweep_all(shop, store)
    assert there(store, artifact)
    assert list(store.files.keys("unused")) == []


def test_what_was_rolled_back_goes(shop: Database, session: Connection, store: ArtifactStore) -> None:
    session.execute("BEGIN")
    artifact = saved(store)
    registered(session, artifact)
    session.execute("ROLLBACK")
    sweep_all(shop, store)
    assert not there(store, artifact)


def test_a_savepoint_that_was_rolled_back_waits_for_its_transaction(shop: Database, session: Connection, store: ArtifactStore) -> None:
    session.execute("BEGIN; SAVEPOINT s")
    artifact = saved(store)
    registered(session, artifact)
    session.execute("ROLLBACK TO s")
    sweep_all(shop, store)
    assert there(store, artifact)
    session.execute("COMMIT")
    sweep_all(shop, store)
    assert not there(store, artifact)


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_prepared_transaction_keeps_it(shop: Database, session: Connection, store: ArtifactStore, end: str) -> None:
    session.execute("BEGIN")
    artifact = saved(store)
    registered(session, artifact)
    session.execute("PREPARE TRANSACTION 'built'")
    try:
        sweep_all(shop, store)
        assert there(store, artifact)
    finally:
        session.execute(cast(LiteralString, f"{end} PREPARED 'built'"))
    sweep_all(shop, store)
    assert there(store, artifact) == (end == "COMMIT")


def test_a_prepared_transaction_holds_the_name_of_its_build(shop: Database, session: Connection) -> None:
    reserve = cast(LiteralString, "SELECT * FROM thanosql.reserve_model('m', false)")
    session.execute("BEGIN")
    session.execute(reserve)
    session.execute("PREPARE TRANSACTION 'built'")
    try:
        with pytest.raises(psycopg.errors.LockNotAvailable) as caught:
            session.execute(reserve)
        assert caught.value.diag.message_detail == "A prepared transaction holds the name."
    finally:
        session.execute("ROLLBACK PREPARED 'built'")
    session.execute(reserve)


def test_prepared_transactions_about_other_things_keep_nothing(shop: Database, session: Connection, store: ArtifactStore) -> None:
    artifact = saved(store)
    session.execute("BEGIN; CREATE TABLE other (i int); PREPARE TRANSACTION 'other'")
    try:
        sweep_all(shop, store)
        assert not there(store, artifact)
    finally:
        session.execute("ROLLBACK PREPARED 'other'")


def test_a_drop_that_is_not_committed_drops_nothing(shop: Database, session: Connection, store: ArtifactStore) -> None:
    artifact = saved(store)
    registered(session, artifact)
    session.execute("BEGIN; DELETE FROM thanosql.model")
    sweep_all(shop, store)
    assert there(store, artifact)
    session.execute("COMMIT")
    sweep_all(shop, store)
    assert not there(store, artifact)


def test_a_reader_who_began_before_the_drop_keeps_it(shop: Database, session: Connection, store: ArtifactStore) -> None:
    artifact = saved(store)
    registered(session, artifact)
    with psycopg.connect(shop.url) as reader:
        reader.execute("SELECT 1")
        session.execute("DELETE FROM thanosql.model")
        sweep_all(shop, store)
        assert there(store, artifact)
    sweep_all(shop, store)
    assert not there(store, artifact)


def test_a_session_that_does_not_tell_keeps_everything(shop: Database, session: Connection, store: ArtifactStore) -> None:
    artifact = saved(store)
    swept(shop, store)
    session.execute("SET track_activities = off")
    sweep_all(shop, store)
    assert there(store, artifact)
    session.execute("RESET track_activities")
    sweep_all(shop, store)
    assert not there(store, artifact)


def test_every_database_of_the_server_counts(shop: Database, session: Connection, store: ArtifactStore) -> None:
    artifact = saved(store)
    registered(session, artifact)
    session.execute("CREATE DATABASE second")
    second = Database(shop.postgres, "second")
    try:
        assert swept(second, store) == []
        sweep_all(second, store)
        assert there(store, artifact)
        session.execute("ALTER DATABASE second ALLOW_CONNECTIONS false")
        with pytest.raises(ThanoError, match="second"):
            swept(shop, store)
    finally:
        session.execute("DROP DATABASE second WITH (FORCE)")


def test_who_cannot_see_everything_may_not_sweep(shop: Database, session: Connection, store: ArtifactStore) -> None:
    name, url = shop.add_role()
    saved(store)

    async def work() -> None:
        await sweep(url, store, 0)

    with pytest.raises(ThanoError, match="when other transactions began"):
        run_aside(work())
    session.execute(cast(LiteralString, f"GRANT pg_read_all_stats TO {name}"))
    with pytest.raises(ThanoError) as caught:
        run_aside(work())
    assert caught.value.sqlstate == "42501"


def test_a_folder_of_two_servers_is_not_swept(shop: Database, session: Connection, store: ArtifactStore) -> None:
    run_aside(register(shop.url, store))
    assert swept(shop, store) == []
    store.files.put("servers/1234", b"")
    with pytest.raises(ThanoError, match="another server") as caught:
        swept(shop, store)
    assert "servers/1234" in str(caught.value.detail)


def test_a_damaged_manifest_keeps_all_weights(shop: Database, session: Connection, store: ArtifactStore, tmp_path: Path) -> None:
    damaged = saved(store)
    registered(session, damaged)
    (tmp_path / "manifests" / f"{damaged}.json").write_bytes(b"{}")
    sweep_all(shop, store)
    assert len(list(store.files.keys("weights"))) == 1


def test_weights_wanted_again_lose_their_mark(shop: Database, session: Connection, store: ArtifactStore) -> None:
    saved(store)
    swept(shop, store)
    swept(shop, store)
    swept(shop, store)  # now the weights are marked
    again = saved(store)
    registered(session, again)
    sweep_all(shop, store)
    assert list(store.files.keys("unused")) == []
    assert store.weights(again, store.manifest(again)) == b"weights"
