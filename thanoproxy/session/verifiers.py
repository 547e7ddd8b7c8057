"""Where the SCRAM verifiers of users come from: a file, or a query at the server."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path
from typing import Protocol

import asyncpg

from thanoproxy import config
from thanoproxy.catalog.connection import Connection, open_connection
from thanoproxy.errors import ConfigurationError, UpstreamUnavailable
from thanoproxy.wire.scram import Verifier, mock_verifier

__all__ = ["FileVerifiers", "QueryVerifiers", "Verifiers", "open_verifiers"]

_LINE = re.compile(r'"(?P<user>(?:[^"]|"")+)"\s+"(?P<verifier>(?:[^"]|"")*)"')
_USUAL_ITERATIONS = 4096
_ITERATIONS_QUERY = f"SELECT coalesce(pg_catalog.current_setting('scram_iterations', true), '{_USUAL_ITERATIONS}')"  # since 16


class Verifiers(Protocol):
    """Somebody who knows them."""

    async def find(self, user: str) -> Verifier:
        """The verifier of `user`; one that nothing fits where there is none.  Raises `UpstreamUnavailable`."""

    def reload(self) -> None:
        """Look at what may have changed.  Raises `ConfigurationError`, and changes nothing then."""

    async def close(self) -> None: ...


def open_verifiers(settings: config.Auth, url: str, secret: bytes) -> Verifiers | None:
    """What `settings` ask for; None where logins are relayed.  Raises `ConfigurationError`."""
    if settings.mode == "relay":
        return None
    if settings.verifiers is not None:
        return FileVerifiers(settings.verifiers, secret)
    return QueryVerifiers(url, settings.query, secret)


class FileVerifiers:
    """Lines of `"user" "SCRAM-SHA-256$…"`, as in PgBouncer's auth_file; empty lines and those that begin with ; or # are skipped.

    The file says nothing about VALID UNTIL: there the server's own check, when we log in at it, is the only one.
    """

    def __init__(self, file: Path, secret: bytes) -> None:
        self._file = file
        self._secret = secret
        self.reload()

    async def find(self, user: str) -> Verifier:
        return self._users.get(user) or mock_verifier(self._secret, user, self._iterations)

    def reload(self) -> None:
        self._users = _read(self._file)
        counted = Counter(verifier.iterations for verifier in self._users.values())
        self._iterations = counted.most_common(1)[0][0] if counted else _USUAL_ITERATIONS

    async def close(self) -> None:
        """Nothing is open."""


class QueryVerifiers:
    """One connection of our own, on which the query runs for each login; names in it mean PostgreSQL's own objects first."""

    def __init__(self, url: str, query: str, secret: bytes) -> None:
        self._url = url
        self._query = query
        self._secret = secret
        self._iterations = _USUAL_ITERATIONS
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()

    async def find(self, user: str) -> Verifier:
        async with self._turn:
            fresh = self._connection is None or self._connection.is_closed()
            try:
                text = await self._ask(user)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                if fresh or isinstance(error, asyncpg.SyntaxOrAccessError):
                    raise _unanswered(error) from error
                self._disconnect()  # the server was restarted since
                try:
                    text = await self._ask(user)
                except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as again:
                    raise _unanswered(again) from again
        return (Verifier.read(text) if text else None) or mock_verifier(self._secret, user, self._iterations)

    def reload(self) -> None:
        """Each login asks anew."""

    async def close(self) -> None:
        self._disconnect()

    async def _ask(self, user: str) -> str | None:
        if self._connection is None or self._connection.is_closed():
            self._connection = await open_connection(self._url)
            # So that a user who is not there looks like one whose password was set here.
            self._iterations = int(await self._connection.fetchval(_ITERATIONS_QUERY))
        row = await self._connection.fetchrow(self._query, user)
        return str(row[-1]) if row and row[-1] is not None else None

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


def _unanswered(error: Exception) -> UpstreamUnavailable:
    reason = str(error) or type(error).__name__
    return UpstreamUnavailable(f"auth.query: {reason.splitlines()[0]}")


def _read(file: Path) -> dict[str, Verifier]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"auth.verifiers: cannot read {file}: {getattr(error, 'strerror', None) or error}") from error
    users = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line[0] in ";#":
            continue
        match = _LINE.match(line)
        verifier = None if match is None else Verifier.read(match["verifier"])
        if match is None or verifier is None:
            raise ConfigurationError(f'auth.verifiers: line {number} of {file} should be "user" "SCRAM-SHA-256$…"')
        users[match["user"].replace('""', '"')] = verifier
    return users
