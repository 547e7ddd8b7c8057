"""Schema thanosql: made, and brought up to date, in one transaction (`thanoproxy init`)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from thanoproxy.catalog.connection import Connection, connect, stranger
from thanoproxy.errors import ConfigurationError, InsufficientPrivilege

__all__ = ["LATEST", "MIGRATIONS", "Migration", "install", "installed_version"]

OLDEST_SERVER = 15  # views with security_invoker
LOCK = (1952997742, 0)  # nobody else's: model names hash to other second keys, or to this one once in 4 billion


@dataclass(frozen=True)
class Migration:
    """One step of the schema's history, from the file `<version>_<name>.sql`.  Files that were released never change."""

    version: int
    name: str
    sql: str

    def written_in(self, encoding: str) -> str:
        """The SQL for a database in that encoding: of all that is not ASCII there is the ellipsis alone, which not every one has."""
        return self.sql if encoding == "UTF8" else self.sql.replace("…", "...")


def _migrations() -> tuple[Migration, ...]:
    found = []
    for file in files("thanoproxy.catalog").joinpath("migrations").iterdir():
        number, _, name = file.name.removesuffix(".sql").partition("_")
        if file.name.endswith(".sql"):
            found.append(Migration(int(number), name, file.read_text(encoding="utf-8")))
    return tuple(sorted(found, key=lambda migration: migration.version))


MIGRATIONS = _migrations()
LATEST = MIGRATIONS[-1].version


async def installed_version(connection: Connection) -> int:
    """The version of the schema in this database; 0 where there is none."""
    if await connection.fetchval("SELECT to_regclass('thanosql.migration')") is None:
        return 0
    return int(await connection.fetchval("SELECT coalesce(max(version), 0) FROM thanosql.migration"))


async def install(url: str, database: str | None = None) -> list[Migration]:
    """Bring the schema up to date; returns what was done, which is nothing where it already was.

    Raises `UpstreamUnavailable`; `ConfigurationError` for a server or a schema we cannot work with; `InsufficientPrivilege` where
    the role may not make a schema.
    """
    async with connect(url, database) as connection:
        major = connection.get_server_version().major
        if major < OLDEST_SERVER:
            raise ConfigurationError(f"upstream.url: PostgreSQL {major} is too old, {OLDEST_SERVER} or later is needed")
        try:
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", *LOCK)
                return await _bring_up_to_date(connection)
        except asyncpg.InsufficientPrivilegeError as error:
            raise InsufficientPrivilege(f"schema thanosql cannot be made: {error}") from error


async def _bring_up_to_date(connection: Connection) -> list[Migration]:
    owner = await stranger(connection)
    if owner is not None:
        raise InsufficientPrivilege(
            f'schema thanosql holds objects of role "{owner}", who is neither the role of upstream.url nor a superuser'
        )
    present = await installed_version(connection)
    if present > LATEST:
        raise ConfigurationError(f"schema thanosql has version {present}, this thanoproxy knows only {LATEST}: upgrade thanoproxy")
    missing = [migration for migration in MIGRATIONS if migration.version > present]
    encoding = await connection.fetchval("SHOW server_encoding")
    for migration in missing:
        await connection.execute(migration.written_in(encoding))
        await connection.execute("INSERT INTO thanosql.migration VALUES ($1, $2)", migration.version, migration.name)
    return missing
