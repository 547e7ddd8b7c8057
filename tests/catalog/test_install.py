from __future__ import annotations

import asyncio

import psycopg
import pytest

from tests.databases import Database
from thanoproxy.catalog.install import LATEST, MIGRATIONS, install
from thanoproxy.errors import ConfigurationError, InsufficientPrivilege, UpstreamUnavailable


async def test_installing_twice_does_nothing_the_second_time(empty_database: Database) -> None:
    assert await install(empty_database.url) == list(MIGRATIONS)
    assert await install(empty_database.url) == []
    with psycopg.connect(empty_database.url) as connection:
        assert connection.execute("SELECT max(version) FROM thanosql.migration").fetchone() == (LATEST,)


async def test_in_a_database_of_another_encoding(empty_database: Database) -> None:
    assert [migration.name for migration in MIGRATIONS if not migration.written_in("LATIN1").isascii()] == []
    latin = Database(empty_database.postgres, f"{empty_database.name}_latin")
    empty_database.execute(f"CREATE DATABASE {latin.name} ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0")
    try:
        assert await install(latin.url) == list(MIGRATIONS)
    finally:
        empty_database.execute(f"DROP DATABASE {latin.name} WITH (FORCE)")


async def test_two_at_once_install_it_once(empty_database: Database) -> None:
    done = await asyncio.gather(install(empty_database.url), install(empty_database.url))
    assert sorted(len(migrations) for migrations in done) == [0, len(MIGRATIONS)]


async def test_a_failed_migration_leaves_nothing(empty_database: Database) -> None:
    empty_database.execute("CREATE SCHEMA thanosql")
    with pytest.raises(Exception, match="already exists"):
        await install(empty_database.url)
    empty_database.execute("DROP SCHEMA thanosql")  # would fail if it held anything
    assert await install(empty_database.url) == list(MIGRATIONS)


async def test_a_newer_schema_is_left_alone(database: Database) -> None:
    database.execute(f"INSERT INTO thanosql.migration VALUES ({LATEST + 1}, 'later')")
    with pytest.raises(ConfigurationError, match="upgrade thanoproxy"):
        await install(database.url)


async def test_a_role_that_may_not_make_a_schema(empty_database: Database) -> None:
    _, url = empty_database.add_role()
    with pytest.raises(InsufficientPrivilege, match="schema thanosql cannot be made"):
        await install(url)


async def test_the_owner_of_a_database_needs_no_superuser(empty_database: Database) -> None:
    role, url = empty_database.add_role()
    empty_database.execute(f"ALTER DATABASE {empty_database.name} OWNER TO {role}")
    assert await install(url) == list(MIGRATIONS)


@pytest.mark.parametrize("url", ["postgresql://nobody:x@127.0.0.1:1/x", "postgresql:///x?host=/nonexistent"])
async def test_a_server_that_is_not_there(url: str) -> None:
    with pytest.raises(UpstreamUnavailable, match=r"upstream\.url: cannot connect") as caught:
        await install(url)
    assert "\n" not in caught.value.message


async def test_a_wrong_password_is_not_repeated(database: Database) -> None:
    with pytest.raises(UpstreamUnavailable) as caught:
        await install(database.url_of("postgres", "geheim"))
    assert "geheim" not in caught.value.message
