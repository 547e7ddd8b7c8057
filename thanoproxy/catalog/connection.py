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

__all__ = ["OWNERS", "Connection", "connect", "open_connection", "stranger"]

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# Unqualified names mean PostgreSQL's own objects, whatever users make in public or in temporary schemas.
SETTINGS = {"application_name": "thanoproxy", "search_path": "pg_catalog, pg_temp"}
OWNERS = """
SELECT DISTINCT r.rolname::pg_catalog.text AS owner FROM pg_catalog.pg_namespace n CROSS JOIN LATERAL (
    SELECT n.nspowner
    UNION ALL SELECT c.relowner FROM pg_catalog.pg_class c WHERE c.relnamespace OPERATOR(pg_catalog.=) n.oid
    UNION ALL SELECT p.proowner FROM pg_catalog.pg_proc p WHERE p.pronamespace OPERATOR(pg_catalog.=) n.oid
) AS part (owner) JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) part.owner
WHERE n.nspname OPERATOR(pg_catalog.=) 'thanosql'::pg_catalog.name AND NOT r.rolsuper
"""
"""The roles that own something in schema thanosql and are no superusers.  It touches nothing in there, and means the same whatever
search_path there is, so that it may be asked in a client's session, too."""

STRANGER = f"SELECT owner FROM ({OWNERS}) AS found WHERE owner <> current_user LIMIT 1"  # noqa: S608 - all of it is ours
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
    owner: str | None = await connection.fetchval(STRANGER)
    return owner


@contextlib.asynccontextmanager
async def connect(url: str, database: str | None = None) -> AsyncIterator[Connection]:
    """The same for the length of a block."""
    connection = await open_connection(url, database)
    try:
        yield connection
    finally:
        await connection.close()
