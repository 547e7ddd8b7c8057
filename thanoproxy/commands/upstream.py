"""The PostgreSQL that a command works with: one that runs already, or our own for the length of the command."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

from thanoproxy.catalog.install import install
from thanoproxy.config import Settings, Upstream
from thanoproxy.embedded import EmbeddedPostgres
from thanoproxy.errors import ConfigurationError, InsufficientPrivilege, UpstreamUnavailable

__all__ = ["client_url", "open_upstream", "our_command", "prepare", "psql_line", "require_folders"]

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def open_upstream(settings: Settings) -> AsyncIterator[tuple[Settings, EmbeddedPostgres | None]]:
    """`settings` with an upstream.url that leads to a server, which is ours where upstream.embedded says so."""
    if settings.upstream.embedded is None:
        _ = settings.upstream.required_url
        yield settings, None
        return
    async with EmbeddedPostgres(settings.upstream.embedded) as server:
        yield with_url(settings, server.url), server


def with_url(settings: Settings, url: str) -> Settings:
    return settings.model_copy(update={"upstream": Upstream(url=url)})


async def prepare(settings: Settings) -> None:
    """What `init` does, where the upstream's role may; serving goes on without it, since ordinary SQL does not need it."""
    try:
        for migration in await install(settings.upstream.required_url):
            log.info("schema thanosql: applied migration %d (%s)", migration.version, migration.name)
    except (UpstreamUnavailable, InsufficientPrivilege) as error:
        log.warning("%s; models need the schema: run `thanoproxy init`", error.message)


def require_folders(settings: Settings) -> None:
    """Raises `ConfigurationError` for a root that is no folder we can read."""
    named = (("images.roots", settings.images.roots), ("weights.roots", settings.weights.roots), ("files.roots", settings.files.roots))
    for name, roots in named:
        for root in roots:
            problem = folder_problem(root)
            if problem is not None:
                raise ConfigurationError(f"{name}: {root} {problem}")


def folder_problem(folder: Path) -> str | None:
    """What keeps us from reading files in `folder`."""
    if not folder.is_dir():
        return "is not a folder" if folder.exists() else "does not exist"
    return None if os.access(folder, os.R_OK | os.X_OK) else "cannot be read"


def client_url(settings: Settings, server: EmbeddedPostgres | None, address: tuple[str, int]) -> str:
    """A URL for clients of ours.  It holds no password: that of an embedded server lies in a file that the URL names."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])  # noqa: S104 - compared, not bound
    bracketed = f"[{host}]" if ":" in host else host
    if server is not None:
        return server.client_url(bracketed, address[1])
    upstream = settings.upstream.address
    user = f"{quote(upstream.user)}@" if upstream.user else ""
    return f"postgresql://{user}{bracketed}:{address[1]}/{quote(upstream.database or '')}"


def psql_line(url: str) -> str:
    """A command to paste into a shell; our own psql where the machine has none."""
    psql = "psql" if shutil.which("psql") else f"{our_command()} psql"
    return f'{psql} "{url}"'


def our_command() -> str:
    """How a shell finds us: by name where we are in PATH, else by the way we were started."""
    if shutil.which("thanoproxy"):
        return "thanoproxy"
    script = Path(sys.argv[0])
    return shlex.quote(str(script)) if script.name == "thanoproxy" else f"{shlex.quote(sys.executable)} -m thanoproxy"
