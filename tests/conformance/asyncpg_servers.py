"""For pytest inside asyncpg's own tests, copied there as conftest.py: the servers that the tests start for themselves.

PostgreSQL refuses root, so where root runs the tests their servers run as another user.  Where CONFORMANCE_PROXY holds a command (JSON)
that starts a proxy for the URL of a server, every server gets one, and the tests are told the proxy's port.  A proxy before a server
with ssl = on has the server's certificate, key and client CA, and encrypts its own leg exactly where the client encrypts his: only so
do the lines `hostssl` and `hostnossl` that the tests write speak of the tests' connections.  For method `cert` the proxy has a
certificate of its own, which it shows for clients that have shown theirs to it; since the tests' lines name no map, it is in the name of
the user that the tests log in as.
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

TLS: dict[str, dict[str, str]] = {}
"""What section [tls] says of the proxy before each server that has encryption, by the server's port."""

NAMES_OF_TLS = {
    "ssl_cert_file": "certificate",
    "ssl_key_file": "key",
    "ssl_ca_file": "client_ca",
    "ssl_min_protocol_version": "min_version",
    "ssl_max_protocol_version": "max_version",
}

_module: Any = cluster  # what follows is not part of what it promises
_make_folder = _module._mkdtemp
_reset_wal = _module.Cluster.reset_wal
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
        words = [with_own_port(word) for word in command]
        learn_tls(words)
        return subprocess.Popen(words, **options, **OWNER)


def with_own_port(word: str) -> str:
    """A test that starts its server again names the port it knows, which is the proxy's."""
    option, _, port = word.partition("=")
    return f"--port={SERVERS[port]}" if option == "--port" and port in SERVERS else word


def learn_tls(words: list[str]) -> None:
    """From a server's command line; the tests change nothing of it while the server runs."""
    given = dict(word.lstrip("-").split("=", 1) for word in words if "=" in word)
    if given.get("ssl") == "on":
        files = {NAMES_OF_TLS[name]: value for name, value in given.items() if name in NAMES_OF_TLS}
        TLS[given["port"]] = {"mode": "prefer", "client_certificates": "optional", **files}


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
    url, more = f"postgresql://postgres@{HOST}:{port}/postgres", {}
    if port in TLS:
        certificates = Path(TLS[port]["client_ca"]).parent
        url += f"?sslcert={certificates / 'client.cert.pem'}&sslkey={certificates / 'client.key.pem'}"
        more = {"tls": TLS[port], "upstream": {"mirror_tls": "true", "vouch": "true"}}
    process = subprocess.Popen(
        [*PROXY["command"], url, json.dumps(more)],
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


def reset_wal(server: cluster.Cluster, **counters: Any) -> None:
    """A test that sets the next OID expects that its own objects get it; so schema thanosql is installed before."""
    if PROXY:
        server.start(port="dynamic")
        server.stop()
    _reset_wal(server, **counters)


_module.subprocess = AsOwner
_module._mkdtemp = make_folder
_module.Cluster._connection_addr_from_pidfile = address_of
_module.Cluster.reset_wal = reset_wal
