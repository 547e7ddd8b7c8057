"""A real PostgreSQL as our own child: made on first use, stopped with us, adopted when a crash left it running.

    DIR/                  ours; its mode is never changed
      postgres/           the cluster, owned by the user PostgreSQL runs as
      postgres.log        what the server says
      lock                held while we run, so that two of us never share one cluster
    DIR.password          the owner's password as a libpq password file (mode 0600)

Passwords are SCRAM everywhere, sockets included.  All of it blocks; `async with` runs it in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote, urlencode

from thanoproxy.embedded import postmaster as pidfile
from thanoproxy.embedded.account import Account, account_for, unreachable
from thanoproxy.embedded.binaries import Binaries, find_binaries
from thanoproxy.embedded.postmaster import Postmaster
from thanoproxy.errors import ConfigurationError

__all__ = ["OWNER", "EmbeddedPostgres", "temporary_directory"]

log = logging.getLogger(__name__)

OWNER = "postgres"
"""The superuser of a cluster of ours, and the database made for it."""

START_SECONDS = 300.0  # recovery after a crash reads the write-ahead log first
STOP_SECONDS = 60.0
SOCKET_PATH_LIMIT = 103  # sun_path on macOS and the BSDs, which is shorter than Linux's 107

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
NOT_DURABLE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


@contextlib.contextmanager
def temporary_directory(prefix: str = "thanoproxy-") -> Iterator[Path]:
    """A new folder that goes with the block, and that the user who runs PostgreSQL may enter (but not list)."""
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


class EmbeddedPostgres:
    """PostgreSQL in `directory`, from `start` (or `with`, `async with`) to `stop`.

    `port` 0 means a free one; an adopted server keeps the port it has.  `durable=False` gives up safety against a crash of the
    machine for speed, as tests and the demo may.  Every failure is a `ConfigurationError` of one line.
    """

    def __init__(self, directory: Path, *, port: int = 0, durable: bool = True) -> None:
        self.directory = directory.expanduser().absolute()
        self.data = self.directory / "postgres"
        self.password_file = self.directory.with_name(self.directory.name + ".password")
        self.log_file = self.directory / "postgres.log"
        self._wanted_port = port
        self._durable = durable
        self._lock: IO[str] | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._running: Postmaster | None = None

    # What callers ask of a running server

    @property
    def port(self) -> int:
        return self._server().port

    @property
    def socket_directory(self) -> Path | None:
        """Where its unix socket lies; None where the path would be too long for one."""
        return self._server().socket_directory

    @property
    def password(self) -> str:
        """The owner's password, read from the password file."""
        return self.password_file.read_text().strip().rpartition(":")[2]

    @property
    def url(self) -> str:
        """How to reach it as the owner, password included."""
        return f"postgresql://{OWNER}:{quote(self.password)}@127.0.0.1:{self.port}/{OWNER}"

    @property
    def pid(self) -> int:
        return self._server().pid

    def client_url(self, host: str, port: int, database: str = OWNER) -> str:
        """A URL for libpq and asyncpg that holds no secret: it names the password file."""
        return f"postgresql://{OWNER}@{host}:{port}/{quote(database)}?{urlencode({'passfile': self.password_file}, safe='/')}"

    def _server(self) -> Postmaster:
        if self._running is None:
            raise RuntimeError("the embedded PostgreSQL is not running")
        return self._running

    # Life

    def start(self) -> Self:
        """Make the cluster if there is none, start its server or adopt the one that runs, and return once it takes connections."""
        self._make_directory()
        self._lock = _lock(self.directory / "lock")
        try:
            account = account_for(self.data)
            binaries = find_binaries(_cluster_version(self.data))
            self._check_reach(account, binaries)
            if not self.data.exists():
                self._make_cluster(account, binaries)
            left = pidfile.read(self.data)
            if left is not None and pidfile.alive(left, self.data):
                log.warning("adopting the PostgreSQL server %d that an earlier run left in %s", left.pid, self.data)
            else:
                self._prepare(account, binaries, stale=left)
                self._launch(account, binaries)
            self._running = self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Shut the server down (fast: sessions are ended, everything is saved); safe to call twice."""
        child, running = self._child, self._running
        self._child = self._running = None
        if child is not None:
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(STOP_SECONDS)
            if child.returncode is None:
                log.error("PostgreSQL server %d did not stop within %.0f s; it is left running", child.pid, STOP_SECONDS)
        elif running is not None:
            self._stop_adopted(running)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        starting = asyncio.create_task(asyncio.to_thread(self.start))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread cannot be stopped half-way: wait for it, so that no server outlives us.
            await asyncio.wait([starting])
            await asyncio.to_thread(self.stop)
            raise

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.shield(asyncio.to_thread(self.stop))

    # Steps of start

    def _make_directory(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"--embedded: cannot make the folder {self.directory}: {error.strerror}") from error

    def _check_reach(self, account: Account, binaries: Binaries) -> None:
        for path, what in ((self.directory, "the data folder"), (binaries.postgres, "PostgreSQL's programs")):
            blocked = unreachable(path, account)
            if blocked is not None:
                raise ConfigurationError(
                    f"--embedded: user {account.name!r}, which runs PostgreSQL here, cannot reach {what}: no access to {blocked}"
                )

    def _make_cluster(self, account: Account, binaries: Binaries) -> None:
        """initdb into a folder of another name, so that a cluster is either whole or not there."""
        fresh = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self.directory))
        account.own(fresh)
        password = secrets.token_hex(24)
        password_copy = fresh.with_name(fresh.name + ".password")
        _write_secret(password_copy, password + "\n")
        account.own(password_copy)
        command = [str(binaries.initdb), *INITDB, f"--pwfile={password_copy}", f"--pgdata={fresh}"]
        try:
            _write_secret(self.password_file, f"*:*:*:{OWNER}:{password}\n")
            made = self._run(account, command if self._durable else [*command, "--no-sync"])
            if made.returncode != 0:
                raise ConfigurationError(f"--embedded: initdb failed: {_last_line(made.stderr) or _last_line(made.stdout)}")
        finally:
            password_copy.unlink()
        fresh.rename(self.data)

    def _prepare(self, account: Account, binaries: Binaries, *, stale: Postmaster | None) -> None:
        if stale is not None:
            pidfile.disown_stale(self.data)
        if not self.password_file.exists():
            self._reset_password(account, binaries)

    def _reset_password(self, account: Account, binaries: Binaries) -> None:
        """A cluster without its password file, e.g. one moved here: give the owner a new password in single-user mode."""
        log.warning("%s is missing; the owner of the cluster gets a new password", self.password_file)
        password = secrets.token_hex(24)
        command = [str(binaries.postgres), "--single", "-D", str(self.data), OWNER]
        done = self._run(account, command, f"ALTER ROLE {OWNER} PASSWORD '{password}'\n")
        if done.returncode != 0 or "ERROR:" in done.stderr:
            reason = _last_line(done.stderr)
            raise ConfigurationError(f"--embedded: {self.password_file} is missing, and a new password was refused: {reason}")
        _write_secret(self.password_file, f"*:*:*:{OWNER}:{password}\n")

    def _launch(self, account: Account, binaries: Binaries) -> None:
        socket_path = self.data / ".s.PGSQL.65535"
        sockets = str(self.data) if len(os.fsencode(socket_path)) <= SOCKET_PATH_LIMIT else ""
        settings = [
            "listen_addresses=127.0.0.1",
            f"port={self._wanted_port or _free_port()}",
            f"unix_socket_directories={_list_item(sockets)}",
            *(() if self._durable else NOT_DURABLE),
        ]
        command = [str(binaries.postgres), "-D", str(self.data), *(part for setting in settings for part in ("-c", setting))]
        with self.log_file.open("ab") as output:
            # A session of its own: Ctrl-C at a terminal reaches us alone, and we stop it when the sessions are through.
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_environment(),
                cwd="/",
                start_new_session=True,
                **account.popen_arguments(),
            )

    def _wait_ready(self) -> Postmaster:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._child is not None and self._child.poll() is not None:
                reason = _last_line(_tail(self.log_file))
                raise ConfigurationError(f"--embedded: PostgreSQL did not start: {reason} (see {self.log_file})")
            running = pidfile.read(self.data)
            ours = self._child is None or (running is not None and running.pid == self._child.pid)
            if running is not None and running.ready and ours:
                return running
            time.sleep(0.02)
        raise ConfigurationError(f"--embedded: PostgreSQL was not ready after {START_SECONDS:.0f} s (see {self.log_file})")

    def _stop_adopted(self, running: Postmaster) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        if pidfile.alive(running, self.data):
            os.kill(running.pid, signal.SIGINT)
        while pidfile.alive(running, self.data):
            if time.monotonic() > deadline:
                log.error("PostgreSQL server %d did not stop within %.0f s; it is left running", running.pid, STOP_SECONDS)
                return
            time.sleep(0.05)

    def _run(self, account: Account, command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            env=_environment(),
            cwd="/",
            **account.popen_arguments(),
        )


def _lock(path: Path) -> IO[str]:
    """Hold `path` as long as this process lives.  Raises `ConfigurationError` where another one holds it."""
    try:
        held = path.open("a+")
    except OSError as error:
        raise ConfigurationError(f"--embedded: cannot write to {path.parent}: {error.strerror}") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        held.seek(0)
        owner = held.read().strip() or "unknown"
        held.close()
        raise ConfigurationError(f"--embedded: {path.parent} is in use by another thanoproxy (process {owner})") from None
    held.truncate(0)
    held.write(f"{os.getpid()}\n")
    held.flush()
    return held


def _cluster_version(data: Path) -> int | None:
    try:
        return int((data / "PG_VERSION").read_text().split(".")[0])
    except (FileNotFoundError, NotADirectoryError):
        if data.exists():
            raise ConfigurationError(f"--embedded: {data} is there and is no PostgreSQL cluster") from None
        return None


def _write_secret(path: Path, text: str) -> None:
    """Write `path` whole, readable by its owner only, from the first byte on."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)
    except OSError as error:
        raise ConfigurationError(f"--embedded: cannot write the password file {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    os.replace(name, path)


def _environment() -> dict[str, str]:
    """No PG… variable of ours may reach the server: PGPORT, PGDATA and others would become its settings."""
    kept = {name: os.environ[name] for name in ("PATH", "TZ") if name in os.environ}
    return {**kept, "LC_ALL": "C"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _list_item(path: str) -> str:
    """`path` as one item of a setting that holds a list, such as unix_socket_directories."""
    return '"' + path.replace('"', '""') + '"' if path else ""


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4000))
        return file.read().decode(errors="replace")


def _last_line(text: str) -> str:
    """The line that says what went wrong: the last FATAL, PANIC or error, else the last line at all."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    blamed = [line for line in lines if any(word in line for word in ("FATAL:", "PANIC:", "error:", "ERROR:"))]
    return (blamed or lines or [""])[-1]
