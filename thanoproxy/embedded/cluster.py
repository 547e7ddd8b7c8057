"""A cluster's files: made by initdb, with a password for its owner from the start."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from pathlib import Path

from thanoproxy.embedded.account import Account
from thanoproxy.embedded.binaries import Binaries
from thanoproxy.embedded.folder import write_secret
from thanoproxy.errors import ConfigurationError

__all__ = ["OWNER", "cluster_version", "environment", "last_line", "make_cluster", "reset_password"]

OWNER = "postgres"
"""The superuser of a cluster of ours, and the database made for it."""

# The builtin provider sorts by code point and knows Unicode's cases, whatever locales the machine has.
INITDB = (
    "--auth=scram-sha-256",
    f"--username={OWNER}",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
)


def cluster_version(data: Path) -> int | None:
    """The major version of the cluster in `data`; None where there is none yet."""
    try:
        return int((data / "PG_VERSION").read_text().split(".")[0])
    except (FileNotFoundError, NotADirectoryError):
        if data.exists():
            raise ConfigurationError(f"--embedded: {data} is there and is no PostgreSQL cluster") from None
        return None


def make_cluster(data: Path, password_file: Path, account: Account, binaries: Binaries, *, durable: bool) -> None:
    """initdb into a folder of another name, so that a cluster is either whole or not there."""
    fresh = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=data.parent))
    account.own(fresh)
    password = secrets.token_hex(24)
    password_copy = fresh.with_name(fresh.name + ".password")
    command = [str(binaries.initdb), *INITDB, f"--pwfile={password_copy}", f"--pgdata={fresh}"]
    try:
        write_secret(password_copy, password + "\n")
        account.own(password_copy)
        write_secret(password_file, _passfile(password))
        made = run_as(account, command if durable else [*command, "--no-sync"])
        if made.returncode != 0:
            raise ConfigurationError(f"--embedded: initdb failed: {last_line(made.stderr) or last_line(made.stdout)}")
    finally:
        password_copy.unlink(missing_ok=True)
    fresh.rename(data)


def reset_password(data: Path, password_file: Path, account: Account, binaries: Binaries) -> None:
    """Give the owner of a cluster that is not running a new password, in single-user mode."""
    password = secrets.token_hex(24)
    command = [str(binaries.postgres), "--single", "-D", str(data), OWNER]
    done = run_as(account, command, f"ALTER ROLE {OWNER} PASSWORD '{password}'\n")
    if done.returncode != 0 or "ERROR:" in done.stderr:
        reason = last_line(done.stderr)
        raise ConfigurationError(f"--embedded: {password_file} is missing, and a new password was refused: {reason}")
    write_secret(password_file, _passfile(password))


def _passfile(password: str) -> str:
    """https://www.postgresql.org/docs/18/libpq-pgpass.html"""
    return f"*:*:*:{OWNER}:{password}\n"


def run_as(account: Account, command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        cwd="/",
        **account.popen_arguments(),
    )


def environment() -> dict[str, str]:
    """No PG… variable of ours may reach the server: PGPORT, PGDATA and others would become its settings."""
    kept = {name: os.environ[name] for name in ("PATH", "TZ") if name in os.environ}
    return {**kept, "LC_ALL": "C"}


def last_line(text: str) -> str:
    """The line that says what went wrong: the last FATAL, PANIC or error, else the last line at all."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    blamed = [line for line in lines if any(word in line for word in ("FATAL:", "PANIC:", "error:", "ERROR:"))]
    return (blamed or lines or [""])[-1]
