"""Connections of our own to the PostgreSQL behind us: for the schema, the jobs and the checks.

They log in as the role of `upstream.url`, and never run anything that a user wrote.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import asyncpg

from thanoproxy.address import WEAK_MODES, parse_url
from thanoproxy.errors import UpstreamUnavailable
from thanoproxy.tls.upstream import upstream_tls

__all__ = ["Connection", "connect", "open_connection", "stranger"]

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# Unqualified names mean PostgreSQL's own objects, whatever users make in public or in temporary schemas.
SETTINGS = {"application_name": "thanoproxy", "search_path": "pg_catalog, pg_temp"}
OWNERS = """
SELECT r.rolname::text FROM (
    SELECT nspowner FROM pg_namespace WHERE nspname = 'thanosql'
    UNION ALL SELECT relowner FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'thanosql')
    UNION ALL SELECT proowner FROM pg_proc WHERE pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'thanosql')
) AS part (owner) JOIN pg_roles r ON r.oid = part.owner
WHERE NOT r.rolsuper AND r.rolname <> current_user LIMIT 1
"""
CONNECT_SECONDS = 10.0
COMMAND_SECONDS = 60.0


async def open_connection(url: str, database: str | None = None) -> Connection:
    """Connect to `url`, in another database of the same server if one is named.  Raises `UpstreamUnavailable`."""
    encryption = encryption_of(url)
    try:
        return await asyncpg.connect(
            url, database=database, server_settings=SETTINGS, timeout=CONNECT_SECONDS, command_timeout=COMMAND_SECONDS, **encryption
        )
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise UpstreamUnavailable(f"upstream.url: cannot connect to PostgreSQL: {reason.splitlines()[0]}") from error


def encryption_of(url: str) -> dict[str, Any]:
    """Where TLS is certain, it is as the sessions' own.  Where it is only tried, asyncpg does that, and then nothing is verified."""
    options = parse_url(url).options
    if options.get("sslmode", "prefer") in WEAK_MODES:
        return {}
    tls = upstream_tls(options)
    return {"ssl": tls.context, "direct_tls": tls.direct}


async def stranger(connection: Connection) -> str | None:
    """The role that owns something in schema thanosql, if that is neither our own role nor a superuser.

    Whoever owns our tables could hang a trigger on them, which would then run with our rights; so this is asked before anything
    else of that schema, from the system catalogues alone.
    """
    owner: str | None = await connection.fetchval(OWNERS)
    return owner


@contextlib.asynccontextmanager
async def connect(url: str, database: str | None = None) -> AsyncIterator[Connection]:
    """The same for the length of a block."""
    connection = await open_connection(url, database)
    try:
        yield connection
    finally:
        await connection.close()
