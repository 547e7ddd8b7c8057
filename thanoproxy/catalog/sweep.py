"""Deleting the artifacts that nobody needs any more, and never one that somebody does.

A sweep reads the rows of every database of the server.  What none of them names gets a mark, with the time; a later sweep deletes it if

    * the mark is older than the time that the operator wants to keep such files,
    * still no row names it, and
    * every transaction that is open now began after the mark.

A transaction whose model is not yet committed began before its artifact was written, and so before any mark of it; one that still reads
a model which was dropped began before the drop was seen.  Prepared transactions do not tell when they began, but hold their locks: while
one has written to thanosql.model_version, nothing is deleted.  All times are the server's own (`clock_timestamp`).

Weights are marked likewise, once no manifest names them.  A folder that several servers use is not swept: each proxy leaves its server's
system identifier in it (`register`).

    servers/<system identifier>      unused/<name of a file>      the mark: seconds since the epoch
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

import asyncpg

from thanoproxy.catalog.artifacts import ArtifactStore, Files
from thanoproxy.catalog.connection import Connection, connect, stranger
from thanoproxy.errors import ArtifactCorrupt, FeatureNotSupported, InsufficientPrivilege, UpstreamUnavailable

__all__ = ["Swept", "register", "sweep"]

IDENTIFIER = "SELECT system_identifier::text FROM pg_control_system()"
SEES_ALL = "SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')"
# With track_activities off a session does not say when its transaction began.
OLDEST = """
SELECT CASE WHEN bool_or(a.state = 'disabled') THEN '-Infinity' ELSE extract(epoch FROM min(a.xact_start)) END::float8
FROM pg_stat_activity a WHERE a.pid <> pg_backend_pid()
"""
NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
DATABASES = "SELECT datname::text, datallowconn FROM pg_database WHERE datname <> 'template0' ORDER BY datname"
# Prepared transactions have no process.
PREPARED = """
SELECT EXISTS (
    SELECT FROM pg_locks l
    WHERE l.pid IS NULL AND l.locktype = 'relation' AND l.relation = 'thanosql.model_version'::regclass
      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
"""


class Swept(NamedTuple):
    """A file that no model needs, since when (seconds since the epoch), and whether it was deleted (or would have been)."""

    key: str
    since: float
    deleted: bool


class _Named(NamedTuple):
    """The artifacts that rows name, and whether a prepared transaction may be about to name another."""

    artifacts: set[str]
    prepared: bool


async def register(url: str, store: ArtifactStore) -> None:
    """Leave word that this server's models are in the store.  Raises `UpstreamUnavailable`."""
    async with connect(url) as connection:
        await asyncio.to_thread(_register, store.files, await connection.fetchval(IDENTIFIER))


async def sweep(url: str, store: ArtifactStore, keep: float, *, dry_run: bool = False) -> list[Swept]:
    """Mark what is not needed, and delete what has not been for `keep` seconds; with `dry_run` neither.

    Raises `UpstreamUnavailable`, `InsufficientPrivilege` or `FeatureNotSupported` where not everything can be known.
    """
    try:
        return await _sweep(url, store, keep, dry_run)
    except asyncpg.PostgresError as error:
        raise InsufficientPrivilege(f"the artifacts cannot be swept: {error}") from error


async def _sweep(url: str, store: ArtifactStore, keep: float, dry_run: bool) -> list[Swept]:
    async with connect(url) as connection:
        if not await connection.fetchval(SEES_ALL):
            raise InsufficientPrivilege(
                "the role of upstream.url cannot see when other transactions began", hint="GRANT pg_read_all_stats to it."
            )
        await asyncio.to_thread(_require_only_server, store.files, await connection.fetchval(IDENTIFIER), dry_run)
        # The order counts: what was written after the files were listed is not looked at, and a transaction that was not open when
        # they were asked for has committed before the rows are read, or began later.
        listed = await asyncio.to_thread(_listed, store)
        oldest = await connection.fetchval(OLDEST)
        named = await _named(url, await connection.fetch(DATABASES))
        now = await connection.fetchval(NOW)
    if not dry_run:
        await asyncio.to_thread(store.files.sweep_temporary)
    horizon = min(now if oldest is None else oldest, now - keep)
    if named.prepared:
        horizon = float("-inf")
    return await asyncio.to_thread(lambda: list(_swept(store, listed, named.artifacts, now, horizon, dry_run)))


async def _named(url: str, databases: list[asyncpg.Record]) -> _Named:
    artifacts, prepared = set[str](), False
    for name, reachable in databases:
        if not reachable:
            raise FeatureNotSupported(f'database "{name}" allows no connections, so its models are not known')
        try:
            async with connect(url, name) as connection:
                found = await _in_database(connection, name)
        except UpstreamUnavailable as error:
            raise UpstreamUnavailable(f'the models of database "{name}" are not known: {error.message}') from error
        artifacts |= found.artifacts
        prepared |= found.prepared
    return _Named(artifacts, prepared)


async def _in_database(connection: Connection, name: str) -> _Named:
    owner = await stranger(connection)
    if owner is not None:
        raise InsufficientPrivilege(f'schema thanosql in database "{name}" belongs to "{owner}", not to the role of upstream.url')
    if await connection.fetchval("SELECT to_regclass('thanosql.model_version')") is None:
        return _Named(set(), False)
    await connection.execute("SET row_security = off")  # an error is better than some of the rows
    prepared = await connection.fetchval(PREPARED)
    rows = await connection.fetch("SELECT DISTINCT artifact FROM thanosql.model_version")
    return _Named({row[0] for row in rows}, bool(prepared))


def _register(files: Files, identifier: str) -> None:
    if not files.has(f"servers/{identifier}"):
        files.put(f"servers/{identifier}", b"")


def _require_only_server(files: Files, identifier: str, dry_run: bool) -> None:
    if not dry_run:
        _register(files, identifier)
    others = sorted(key for key, _ in files.keys("servers") if key != f"servers/{identifier}")
    if others:
        raise FeatureNotSupported(
            "the folder of the artifacts is used by another server, too, whose models are not known",
            detail=f"This server is {identifier}; the folder has {', '.join(others)}.",
            hint="If that server uses it no more (a copy, a restore), remove that file.",
        )


class _Listed(NamedTuple):
    """What the store has: manifests and weights by key, and the marks."""

    manifests: dict[str, str]
    weights: list[str]
    marks: dict[str, float]


def _listed(store: ArtifactStore) -> _Listed:
    marks = dict[str, float]()
    for key, _ in store.files.keys("unused"):
        try:
            marks[key] = float(store.files.get(key))
        except (ValueError, FileNotFoundError):
            store.files.delete(key)
    manifests = {f"manifests/{identity}.json": identity for identity, _ in store.identities()}
    return _Listed(manifests, [key for key, _ in store.files.keys("weights")], marks)


def _swept(store: ArtifactStore, listed: _Listed, named: set[str], now: float, horizon: float, dry_run: bool) -> Iterator[Swept]:
    manifests, weights, marks = listed
    digests = _digests(store)
    unused = [key for key, identity in manifests.items() if identity not in named]
    # Without a manifest that can be read, nobody knows which weights are whose.
    unused += [] if digests is None else [key for key in weights if key not in digests]
    for key in unused:
        mark = _mark(key)
        since = marks.pop(mark, None)
        if since is not None and since < horizon:
            if not dry_run:
                _delete(store, key)
                store.files.delete(mark)
            yield Swept(key, since, True)
            continue
        if since is None and not dry_run:
            store.files.put(mark, repr(now).encode())
        yield Swept(key, now if since is None else since, False)
    for mark in () if dry_run else marks:  # of what is used after all, or gone
        store.files.delete(mark)


def _delete(store: ArtifactStore, key: str) -> None:
    if key.startswith("manifests/"):
        store.files.delete(key)
        return
    # Another artifact of the same weights may be on its way: it looks for them once its manifest is written (`ArtifactStore.save`).
    try:
        data = store.files.get(key)
    except FileNotFoundError:
        return
    store.files.delete(key)
    digests = _digests(store)
    if digests is None or key in digests:
        store.files.put(key, data)


def _digests(store: ArtifactStore) -> set[str] | None:
    """The weights that manifests name; None where one cannot be read."""
    try:
        return {f"weights/{store.manifest(identity).weights_sha256}.safetensors" for identity, _ in store.identities()}
    except ArtifactCorrupt:
        return None


def _mark(key: str) -> str:
    return "unused/" + key.replace("/", "-")
