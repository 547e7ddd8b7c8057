"""thanosql.jobs and thanosql.training_log, written on connections of our own, so that other sessions see a job while it runs.

For each database in which a job runs there is one connection, with one task that writes what the sessions hand it, in order.  While
it is open it holds an advisory lock that the rows of its jobs name: if we die, however we die, the lock goes and the view shows
those jobs as failed; whoever opens the next such connection writes that down (`HEAL`).

A job never fails, and a session never hangs, because its progress could not be shown: what cannot be written is logged and dropped,
and nobody waits for a write longer than `PATIENCE`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from thanoproxy.catalog.connection import Connection, open_connection, stranger
from thanoproxy.catalog.install import LATEST, installed_version
from thanoproxy.errors import Canceled, InsufficientPrivilege, NotInstalled
from thanoproxy.workers import jobs

__all__ = ["Service"]

log = logging.getLogger(__name__)

PATIENCE = 5.0
IDLE_SECONDS = 2.0
"""Not for long: DROP DATABASE waits for others 5 seconds at most (CountOtherDBBackends in procarray.c)."""

BACKLOG = 1000
LOCK_CLASS = 1952997743  # as in thanosql.proxy_lives

BEGIN = """
INSERT INTO thanosql.job (id, kind, model, role, backend_pid, state, phase, proxy, proxy_lock)
VALUES ($1, $2, $3, $4, $5, 'running', 'reading', $6, $7)
ON CONFLICT (id) DO NOTHING
"""
# Phases that count no images, such as saving, leave the last numbers standing.
# A job that another proxy took for dead, while we were out of touch, comes back to life with its next report.
PROGRESS = """
UPDATE thanosql.job SET
    state = CASE WHEN $2 = 'queued' THEN 'queued' ELSE 'running' END,
    phase = $2, images_done = CASE WHEN $3::bigint > 0 OR $4::bigint > 0 THEN $3 ELSE images_done END,
    images_total = coalesce(nullif($4, 0), images_total),
    images_per_second = coalesce(nullif($5, 0), images_per_second), loss = coalesce($6, loss), accuracy = coalesce($7, accuracy),
    eta = now() + $8 * interval '1 second', updated_at = now(), finished_at = NULL, error = NULL, sqlstate = NULL
WHERE id = $1
"""
EPOCH = """
INSERT INTO thanosql.training_log
    (job, model, epoch, loss, accuracy, validation_loss, validation_accuracy, learning_rate, seconds)
SELECT id, model, $2, $3, $4, $5, $6, $7, $8 FROM thanosql.job WHERE id = $1
ON CONFLICT (job, epoch) DO UPDATE SET
    loss = excluded.loss, accuracy = excluded.accuracy, validation_loss = excluded.validation_loss,
    validation_accuracy = excluded.validation_accuracy, learning_rate = excluded.learning_rate, seconds = excluded.seconds
"""
FINISH = """
UPDATE thanosql.job SET
    state = 'done', phase = 'done', version = $2, accuracy = coalesce($3, accuracy),
    images_done = coalesce(images_total, images_done), eta = NULL,
    error = NULL, sqlstate = NULL, updated_at = now(), finished_at = now()
WHERE id = $1
"""
DONE = """
UPDATE thanosql.job SET
    state = 'done', phase = 'done', version = $2, images_done = coalesce($3, images_done), images_total = coalesce($3, images_total),
    accuracy = $4, eta = NULL, error = NULL, sqlstate = NULL, updated_at = now(), finished_at = now()
WHERE id = $1
"""
NAME_VERSION = "UPDATE thanosql.training_log SET version = $2 WHERE job = $1"
FAIL = """
UPDATE thanosql.job SET
    state = $2, sqlstate = $3, error = $4, eta = NULL, updated_at = now(), finished_at = now()
WHERE id = $1
"""
ADOPT = "UPDATE thanosql.job SET proxy_lock = $2 WHERE id = ANY ($1)"
HEAL = """
UPDATE thanosql.job SET
    state = 'failed', sqlstate = '58000', error = 'the proxy that ran this job is gone', eta = NULL, finished_at = now()
WHERE finished_at IS NULL AND NOT thanosql.proxy_lives(proxy_lock)
"""

LOST = (asyncpg.PostgresConnectionError, asyncpg.exceptions.OperatorInterventionError)
"""What the server says when it ends a connection.  (asyncpg's own errors that mean the same are no `PostgresError`s.)"""

Work = Callable[[Connection, int], Awaitable[None]]
"""Something to write, given the connection and the key of its lock."""


class Service:
    """The job log of one proxy.  `url` is the upstream's; its role owns schema thanosql."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._proxy = f"{socket.gethostname()}:{os.getpid()}"
        self._writers: dict[str, _Writer] = {}

    async def start(self, database: str) -> None:
        """Write down which jobs in `database` died with their proxy.  In other databases that happens when one is first used."""
        await self._write(database, _nothing)

    async def close(self) -> None:
        """Write what is left, but not for longer than `PATIENCE`, and disconnect."""
        writers, self._writers = self._writers, {}
        await asyncio.gather(*(writer.close() for writer in writers.values()))

    def begin(self, database: str, kind: str, model: str, role: str, backend_pid: int) -> str:
        """A new running job; its id, which no other job in any database has.  Does not wait for the write."""
        job = uuid.uuid4()
        self._writer(database).running.add(job)

        async def write(connection: Connection, key: int) -> None:
            await connection.execute(BEGIN, job, kind, model, role, backend_pid, self._proxy, key)

        self._writer(database).put(write)
        return str(job)

    def progress(self, database: str, job: str, progress: jobs.Progress) -> None:
        """Show how far a job is.  Does not wait for the write."""
        shown = (progress.phase, progress.images_done, progress.images_total, progress.images_per_second)
        more = (progress.loss, progress.accuracy, progress.seconds_left)

        async def write(connection: Connection, key: int) -> None:
            await connection.execute(PROGRESS, uuid.UUID(job), *shown, *more)
            if progress.epoch is not None:
                await connection.execute(EPOCH, uuid.UUID(job), *_epoch(progress.epoch))

        self._writer(database).put(write)

    async def finish(self, database: str, job: str, built: jobs.Built, version: int) -> None:
        """The job made that version of its model."""

        async def write(connection: Connection, key: int) -> None:
            await connection.executemany(EPOCH, [(uuid.UUID(job), *_epoch(epoch)) for epoch in built.log])
            await connection.execute(NAME_VERSION, uuid.UUID(job), version)
            await connection.execute(FINISH, uuid.UUID(job), version, built.metrics.get("validation_accuracy"))

        await self._end(database, job, write)

    async def done(self, database: str, job: str, version: int, images: int | None, accuracy: float | None) -> None:
        """The job, which trained nothing, used or made that version."""

        async def write(connection: Connection, key: int) -> None:
            await connection.execute(DONE, uuid.UUID(job), version, images, accuracy)

        await self._end(database, job, write)

    async def fail(self, database: str, job: str, sqlstate: str, message: str) -> None:
        """The job ended with that error; 57014 means that somebody canceled it."""
        state = "canceled" if sqlstate == Canceled.sqlstate else "failed"

        async def write(connection: Connection, key: int) -> None:
            try:
                await connection.execute(FAIL, uuid.UUID(job), state, sqlstate, message)
            except asyncpg.UntranslatableCharacterError:  # the database's encoding is not UTF8
                await connection.execute(FAIL, uuid.UUID(job), state, sqlstate, message.encode("ascii", "replace").decode())

        await self._end(database, job, write)

    async def check_installed(self, database: str) -> None:
        """Raises `NotInstalled`, `InsufficientPrivilege` or `UpstreamUnavailable` where jobs in `database` could not be logged."""
        connection = await open_connection(self._url, database)
        try:
            await _check(connection, database)
        finally:
            await connection.close()

    async def _end(self, database: str, job: str, write: Work) -> None:
        await self._write(database, write)
        self._writer(database).running.discard(uuid.UUID(job))

    async def _write(self, database: str, work: Work) -> None:
        written = self._writer(database).put(work)
        await asyncio.wait([written], timeout=PATIENCE)

    def _writer(self, database: str) -> _Writer:
        if database not in self._writers:
            self._writers[database] = _Writer(self._url, database, self._forget)
        return self._writers[database]

    def _forget(self, writer: _Writer) -> None:
        if self._writers.get(writer.database) is writer:
            del self._writers[writer.database]


class _Writer:
    """The connection and the task of one database; both end when no job has run there for `IDLE_SECONDS`."""

    def __init__(self, url: str, database: str, forget: Callable[[_Writer], None]) -> None:
        self.database = database
        self.running: set[uuid.UUID] = set()
        self._url = url
        self._forget = forget
        self._key = 0
        self._connection: Connection | None = None
        self._queue: asyncio.Queue[tuple[Work, asyncio.Future[None]]] = asyncio.Queue(BACKLOG)
        self._task = asyncio.create_task(self._run(), name=f"job log of {database}")

    def put(self, work: Work) -> asyncio.Future[None]:
        """Have `work` done after what was put before; the future is done when it was, or was given up."""
        done = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((work, done))
        except asyncio.QueueFull:
            log.warning("job log of %s: too far behind, a report is left out", self.database)
            done.set_result(None)
        return done

    async def close(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._queue.join(), PATIENCE)
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while True:
                try:
                    work, done = await asyncio.wait_for(self._queue.get(), IDLE_SECONDS)
                except TimeoutError:
                    if not self.running and self._queue.empty():
                        return
                    continue
                await self._do(work)
                if not done.done():
                    done.set_result(None)
                self._queue.task_done()
        finally:
            self._forget(self)
            self._disconnect()

    async def _do(self, work: Work) -> None:
        """A connection that turns out to be dead gets one successor; any other failure is logged."""
        fresh = self._connection is None or self._connection.is_closed()
        try:
            await self._attempt(work)
        except Exception as error:  # whatever it is, the next report must still be written
            alive = isinstance(error, asyncpg.PostgresError) and not isinstance(error, LOST)
            if not alive:
                self._disconnect()
            if alive or fresh:
                log.warning("job log of %s: %s", self.database, str(error) or type(error).__name__)
            else:
                await self._do(work)

    async def _attempt(self, work: Work) -> None:
        if self._connection is None or self._connection.is_closed():
            self._connection = await open_connection(self._url, self.database)
            try:
                await _check(self._connection, self.database)
                await self._present_ourselves(self._connection)
            except BaseException:
                self._disconnect()
                raise
        await work(self._connection, self._key)

    async def _present_ourselves(self, connection: Connection) -> None:
        """Take a lock that nobody else has, and name it in the rows of our jobs.

        The key is a new one each time: the server may not have noticed yet that our last connection is gone.
        """
        self._key = 0
        while not self._key:
            key = secrets.randbelow(2**31 - 1) + 1
            if await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", LOCK_CLASS, key):
                self._key = key
        await connection.execute(ADOPT, list(self.running), self._key)
        await connection.execute(HEAL)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


async def _check(connection: Connection, database: str) -> None:
    owner = await stranger(connection)
    if owner is not None:
        raise InsufficientPrivilege(f'schema thanosql in database "{database}" belongs to "{owner}", not to the role of upstream.url')
    if await installed_version(connection) < LATEST:
        raise NotInstalled(
            f'database "{database}" has no thanoproxy catalogue, or one that is too old', hint="Run `thanoproxy init` on it."
        )


def _epoch(epoch: jobs.Epoch) -> tuple[Any, ...]:
    return (
        epoch.epoch,
        epoch.loss,
        epoch.accuracy,
        epoch.validation_loss,
        epoch.validation_accuracy,
        epoch.learning_rate,
        epoch.seconds,
    )


async def _nothing(connection: Connection, key: int) -> None:
    """Opening the connection is all that is wanted."""
