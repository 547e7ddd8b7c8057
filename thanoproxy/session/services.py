"""What every session of a front process shares."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from thanoproxy.session.names import Names
from thanoproxy.statements.shapes import Seal
from thanoproxy.workers import jobs
from thanoproxy.workers.pool import Pool
from thanoproxy.workers.reading import FileReader

__all__ = ["JobLog", "Services"]


class JobLog(Protocol):
    """thanosql.jobs as other sessions see it, written on a connection of the proxy's own.  None of these ever raises: a job must not
    fail because its progress could not be shown."""

    def begin(self, database: str, kind: str, model: str, role: str, backend_pid: int) -> str:
        """A new running job; its id."""

    def progress(self, database: str, job: str, progress: jobs.Progress) -> None: ...

    async def finish(self, database: str, job: str, built: jobs.Built, version: int) -> None: ...

    async def done(self, database: str, job: str, version: int, images: int | None, accuracy: float | None) -> None: ...

    async def fail(self, database: str, job: str, sqlstate: str, message: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Services:
    """Workers, signatures, the public job log, the folder where rows wait for a BUILD, the names to look for in a database, who
    tells whether a server process is no more, who reads files with rows, and the role of our own that owns the catalogue."""

    pool: Pool
    seal: Seal
    log: JobLog
    spool: Path
    names: Callable[[str], Names]
    backend_is_gone: Callable[[str, int], Awaitable[bool]]
    files: FileReader
    role: str
