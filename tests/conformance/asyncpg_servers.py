"""For pytest inside asyncpg's own tests, copied there as conftest.py: the servers that the tests start for themselves.

PostgreSQL refuses root, so where root runs the tests their servers run as another user.  Where CONFORMANCE_PROXY holds a command (JSON)
that starts a proxy for the URL of a server, every server gets one, and the tests are told the proxy's port.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from asyncpg import cluster

HOST = "127.0.0.1"
OWNER: dict[str, Any] = json.loads(os.environ["CONFORMANCE_OWNER"])
"""What `subprocess` needs to start a program as the user who runs PostgreSQL: empty, or user and group."""

PROXY: dict[str, Any] = json.loads(os.environ.get("CONFORMANCE_PROXY", "{}"))

SERVERS: dict[str, str] = {}
"""The port of each server by that of its proxy."""

_module: Any = cluster  # what follows is not part of what it promises
_make_folder = _module._mkdtemp
_address_of = _module.Cluster._connection_addr_from_pidfile


class AsOwner:
    """`subprocess`, as asyncpg.cluster uses it."""

    PIPE, STDOUT, DEVNULL = subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL

    @staticmethod
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(command, check=False, **{"cwd": "/", **options, **OWNER})

    @staticmethod
    def Popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        for path in Path(command[command.index("-D") + 1]).iterdir():
            give(path)  # standby.signal and a key's copy are written by the tests themselves
        return subprocess.Popen([with_own_port(word) for word in command], **options, **OWNER)


def with_own_port(word: str) -> str:
    """A test that starts its server again names the port it knows, which is the proxy's."""
    option, _, port = word.partition("=")
    return f"--port={SERVERS[port]}" if option == "--port" and port in SERVERS else word


def give(path: Path) -> None:
    if OWNER:
        os.chown(path, OWNER["user"], OWNER["group"])


def make_folder(*args: Any, **options: Any) -> str:
    folder: str = _make_folder(*args, **options)
    give(Path(folder))
    return folder


def address_of(server: cluster.Cluster) -> dict[str, str] | None:
    """Where clients connect: by TCP in both ways, so that both meet the same lines of pg_hba.conf."""
    address = _address_of(server)
    if not address:
        return None
    return {"host": HOST, "port": proxy_of(address["port"]) if PROXY else address["port"]}


@cache
def proxy_of(port: str) -> str:
    """The port of the proxy in front of the server on `port`; it outlives the server, which may be restarted."""
    process = subprocess.Popen(
        [*PROXY["command"], f"postgresql://postgres@{HOST}:{port}/postgres"],
        cwd=PROXY["folder"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    atexit.register(process.wait)
    atexit.register(process.stdin.close)  # the first to be called; the proxy ends with it
    said = process.stdout.readline().strip()
    assert said.isdigit(), f"no proxy for the server on port {port}"
    SERVERS[said] = port
    return said


_module.subprocess = AsOwner
_module._mkdtemp = make_folder
_module.Cluster._connection_addr_from_pidfile = address_of
