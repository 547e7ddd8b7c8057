"""Which views of a database hold predictions (`thanosql.saved`), known before a session names one.

A session's text is looked at only if it holds a word of ours, and the name of such a view is one.  Views come and go in anybody's
session, and by ways that we do not see (pg_restore, ALTER VIEW … RENAME in a function), so a connection of our own listens for those
made through a proxy and looks for the others now and then.

The same connection tells whether the server process of a session is still there.

It is there only while clients are in the database, and a moment longer (`LINGER`): DROP DATABASE waits for others, but not for long
(5 seconds, CountOtherDBBackends in procarray.c).  In a database without a catalogue there is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import asyncpg

from thanoproxy.catalog.connection import Connection, open_connection, stranger
from thanoproxy.catalog.install import LATEST, installed_version

__all__ = ["CHANNEL", "SavedViews"]

log = logging.getLogger(__name__)

CHANNEL = "thanosql"
LINGER = 2.0
EVERY = 10.0
AGAIN = 30.0
"""Seconds after which a database without a catalogue is asked again."""
NAMES = "SELECT DISTINCT c.relname::text FROM thanosql.saved_view s JOIN pg_class c ON c.oid = s.view"
GONE = "SELECT NOT EXISTS (SELECT FROM pg_stat_get_activity($1))"

Heard = Callable[[frozenset[str] | None], None]


class SavedViews:
    """Of all databases that clients of this front are in.  `url` is the upstream's."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._watchers: dict[str, _Watcher] = {}
        self._without: dict[str, float] = {}

    def enter(self, database: str, heard: Heard) -> None:
        """A session is in `database`: `heard` is told the names of its views, soon, and whenever they change; None without a catalogue."""
        watcher = self._watchers.get(database)
        if watcher is None:
            if time.monotonic() - self._without.get(database, -AGAIN) < AGAIN:
                heard(None)
                return
            watcher = self._watchers[database] = _Watcher(self._url, database, heard)
            watcher.task.add_done_callback(lambda _: self._ended(database))
        watcher.sessions += 1

    def leave(self, database: str) -> None:
        """One session less."""
        watcher = self._watchers.get(database)
        if watcher is not None:
            watcher.sessions = max(0, watcher.sessions - 1)
            watcher.wake()

    async def backend_is_gone(self, database: str, pid: int) -> bool:
        """Whether that server process has ended.  False where nobody can tell."""
        watcher = self._watchers.get(database)
        return watcher is not None and await watcher.backend_is_gone(pid)

    async def close(self) -> None:
        tasks = [watcher.task for watcher in self._watchers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, database: str) -> None:
        if not self._watchers.pop(database).has_catalogue:
            self._without[database] = time.monotonic()


class _Watcher:
    """The task of one database, and its connection."""

    def __init__(self, url: str, database: str, heard: Heard) -> None:
        self.sessions = 0
        self.has_catalogue = False
        self._url = url
        self._database = database
        self._heard = heard
        self._news = asyncio.Event()
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()
        self.task = asyncio.create_task(self._run(), name=f"saved views of {database}")

    def wake(self) -> None:
        self._news.set()

    async def backend_is_gone(self, pid: int) -> bool:
        try:
            async with self._turn:
                return self._connection is not None and bool(await self._connection.fetchval(GONE, pid))
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            return False

    async def _run(self) -> None:
        """End where there is no catalogue, or nobody in the database any more."""
        while True:
            try:
                await self._follow()
            except Exception as error:  # whatever it is, sessions go on
                log.warning("saved views of %s: %s", self._database, str(error) or type(error).__name__)
            else:
                return
            self._heard(None)
            await asyncio.sleep(EVERY)
            if not self.sessions:
                return

    async def _follow(self) -> None:
        connection = await open_connection(self._url, self._database)
        try:
            if await stranger(connection) is not None or await installed_version(connection) < LATEST:
                self._heard(None)
                return
            self.has_catalogue = True
            self._connection = connection
            connection.add_termination_listener(lambda _: self.wake())
            listens = False
            while await self._still_wanted():
                self._news.clear()
                async with self._turn:
                    listens = listens or await self._listen(connection)
                    names = await _names(connection)
                self._heard(names)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), EVERY)
        finally:
            self._connection = None
            connection.terminate()

    async def _listen(self, connection: Connection) -> bool:
        """Whether the server lets us: a standby does not, before it is promoted, and so is only looked at now and then."""
        if await connection.fetchval("SELECT pg_is_in_recovery()"):
            return False
        await connection.add_listener(CHANNEL, lambda *_: self.wake())
        return True

    async def _still_wanted(self) -> bool:
        if not self.sessions:
            await asyncio.sleep(LINGER)
        return bool(self.sessions)


async def _names(connection: Connection) -> frozenset[str]:
    return frozenset(row[0] for row in await connection.fetch(NAMES))
