"""A real PostgreSQL as our own child: made on first use, stopped with us, adopted when a crash left it running.

    DIR/                  ours; its mode is never changed
      postgres/           the cluster, owned by the user PostgreSQL runs as
      postgres.log        what the server says
      lock                held while we run, so that two of us never share one cluster
      binaries/           a copy of PostgreSQL's programs, where it was asked for
    DIR.password          the owner's password as a libpq password file (mode 0600); inside of DIR where its parent is not ours to
                          write to, as with a volume of a container

Passwords are SCRAM everywhere, sockets included.  All of it blocks; `async with` runs it in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote, urlencode

from thanoproxy.embedded import postmaster as pidfile
from thanoproxy.embedded.account import Account, account_for, unreachable
from thanoproxy.embedded.binaries import Binaries, copy_binaries, find_binaries
from thanoproxy.embedded.cluster import OWNER, cluster_version, environment, last_line, make_cluster, reset_password
from thanoproxy.embedded.folder import hold, make_folder, password_path
from thanoproxy.embedded.postmaster import Postmaster
from thanoproxy.errors import ConfigurationError

__all__ = ["EmbeddedPostgres"]

log = logging.getLogger(__name__)

START_SECONDS = 300.0  # recovery after a crash reads the write-ahead log first
STOP_SECONDS = 60.0
SOCKET_PATH_LIMIT = 103  # sun_path on macOS and the BSDs, which is shorter than Linux's 107

NOT_DURABLE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class EmbeddedPostgres:
    """PostgreSQL in `directory`, from `start` (or `with`, `async with`) to `stop`.

    `port` 0 means a free one; an adopted server keeps the port it has.  `durable=False` gives up safety against a crash of the
    machine for speed, as tests may; `copy_binaries` copies PostgreSQL's programs into `directory` where the user who runs them
    cannot reach the package.  A server outlives us if we are killed, and the next of us adopts it; a `tied` one does not.
    Every failure is a `ConfigurationError` of one line.
    """

    def __init__(self, directory: Path, *, port: int = 0, durable: bool = True, copy_binaries: bool = False, tied: bool = False) -> None:
        self.directory = directory.expanduser().absolute()
        self.data = self.directory / "postgres"
        self.password_file = password_path(self.directory)
        self.log_file = self.directory / "postgres.log"
        self._wanted_port = port
        self._durable = durable
        self._copy_binaries = copy_binaries
        self._tied = tied
        self._lock: IO[str] | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._lifeline: subprocess.Popen[bytes] | None = None
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
        return self._url(self.port)

    def _url(self, port: int) -> str:
        return f"postgresql://{OWNER}:{quote(self.password)}@127.0.0.1:{port}/{OWNER}"

    @property
    def pid(self) -> int:
        return self._server().pid

    def client_url(self, host: str, port: int, database: str = OWNER) -> str:
        """A URL for libpq and asyncpg that holds no secret: it names the password file."""
        return f"postgresql://{OWNER}@{host}:{port}/{quote(database)}?{urlencode({'passfile': self.password_file}, safe='/')}"

    @property
    def running(self) -> bool:
        """Whether the server is still there; it may have been killed behind our back."""
        if self._child is not None:
            return self._child.poll() is None
        return self._running is not None and pidfile.alive(self._running, self.data)

    def _server(self) -> Postmaster:
        if self._running is None:
            raise RuntimeError("the embedded PostgreSQL is not running")
        return self._running

    # Life

    def start(self) -> Self:
        """Make the cluster if there is none, start its server or adopt the one that runs, and return once it takes connections."""
        account = account_for(self.data)
        self._check_folder(account)
        make_folder(self.directory, account)
        self._lock = hold(self.directory / "lock")
        try:
            binaries = self._reachable(account, find_binaries(cluster_version(self.data)))
            if not self.data.exists():
                make_cluster(self.data, self.password_file, account, binaries, durable=self._durable)
            left = pidfile.read(self.data)
            if left is not None and pidfile.alive(left, self.data) and not self.password_file.exists():
                self._stop_adopted(left)
            if left is not None and pidfile.alive(left, self.data):
                log.warning("adopting the PostgreSQL server %d that an earlier run left in %s", left.pid, self.data)
                self._running = self._wait_ready()
            else:
                self._prepare(account, binaries, stale=left)
                with _reserved(self._wanted_port) as port:
                    self._launch(account, binaries, port)
                    self._running = self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def inspect(self) -> str | None:
        """What `start` would find, without starting or making anything: the URL if a server runs there, None if `start` would
        make or start one.  Raises `ConfigurationError` where it would fail for want of rights or programs."""
        account = account_for(self.data)
        self._check_folder(account)
        self._reachable(account, find_binaries(cluster_version(self.data)))
        left = pidfile.read(self.data)
        if left is None or not left.ready or not pidfile.alive(left, self.data):
            return None
        return self._url(left.port)

    def stop(self) -> None:
        """Shut the server down (fast: sessions are ended, everything is saved); safe to call twice."""
        self._cut_lifeline()
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

    def _check_folder(self, account: Account) -> None:
        blocked = unreachable(self.directory, account)
        if blocked is not None:
            raise ConfigurationError(_closed(account, "the data folder", blocked))

    def _reachable(self, account: Account, binaries: Binaries) -> Binaries:
        """`binaries`, or a copy of them, where `account` can run them."""
        blocked = unreachable(binaries.postgres, account)
        if blocked is None:
            return binaries
        if not self._copy_binaries:
            raise ConfigurationError(_closed(account, "PostgreSQL's programs", blocked))
        return copy_binaries(binaries, self.directory / "binaries")

    def _prepare(self, account: Account, binaries: Binaries, *, stale: Postmaster | None) -> None:
        if stale is not None:
            pidfile.disown_stale(self.data)
        if not self.password_file.exists():
            log.warning("%s is missing; the owner of the cluster gets a new password", self.password_file)
            reset_password(self.data, self.password_file, account, binaries)

    def _launch(self, account: Account, binaries: Binaries, port: int) -> None:
        socket_path = self.data / ".s.PGSQL.65535"
        sockets = str(self.data) if len(os.fsencode(socket_path)) <= SOCKET_PATH_LIMIT else ""
        settings = [
            "listen_addresses=127.0.0.1",
            f"port={port}",
            f"unix_socket_directories={_list_item(sockets)}",
            *(() if self._durable else NOT_DURABLE),
        ]
        command = [str(binaries.postgres), "-D", str(self.data), *(part for setting in settings for part in ("-c", setting))]
        with open(self.log_file, "ab", opener=_private) as output:
            # A session of its own: Ctrl-C at a terminal reaches us alone, and we stop it when the sessions are through.
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment(),
                cwd="/",
                start_new_session=True,
                **account.popen_arguments(),
            )

        if self._tied:
            self._tie(account, self._child.pid)

    def _tie(self, account: Account, pid: int) -> None:
        """End the server when we end, however that happens: a shell waits for the end of a pipe that only we hold open."""
        self._lifeline = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; kill -INT "$1"', "sh", str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            **account.popen_arguments(),
        )

    def _cut_lifeline(self) -> None:
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            lifeline.kill()
            lifeline.communicate()

    def _wait_ready(self) -> Postmaster:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._child is not None and self._child.poll() is not None:
                reason = last_line(_tail(self.log_file))
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


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)  # a failed statement is logged whole, with any password in it


def _closed(account: Account, what: str, blocked: Path) -> str:
    return f"--embedded: user {account.name!r}, which runs PostgreSQL here, cannot reach {what}: no access to {blocked}"


@contextlib.contextmanager
def _reserved(wanted: int) -> Iterator[int]:
    """`wanted`, or a free port where that is 0: bound as long as this lasts, so that the system gives it to nobody else.

    PostgreSQL may bind it meanwhile, since both sides set SO_REUSEADDR and ours does not listen.
    """
    if wanted:
        yield wanted
        return
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


def _list_item(path: str) -> str:
    """`path` as one item of a setting that holds a list, such as unix_socket_directories."""
    return '"' + path.replace('"', '""') + '"' if path else ""


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4000))
        return file.read().decode(errors="replace")
