"""`thanoproxy serve --fronts 2`: two processes that a client cannot tell from one, and what happens when one of all these dies."""

from __future__ import annotations

import asyncio
import os
import re
import select
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psycopg
import pytest

from tests.commands.test_cli import NOWHERE, thanoproxy
from tests.databases import Database
from tests.rawwire import RawClient
from tests.serving import small_model
from tests.session.certificates import Authority, Pair
from tests.test_crash import LONG, alive, children_of, serving, wait_until
from thanoproxy.wire.messages import query
from thanoproxy.wire.startup import SSL_REQUEST, Cancel, request

FRONTS = 2
PREDICT = "PREDICT USING colours AS TABLE pictures"


@dataclass
class Running:
    """The parent, a URL through its fronts, and the folder where all of them keep temporary files."""

    parent: subprocess.Popen[str]
    url: str
    temporary: Path

    @property
    def fronts(self) -> list[int]:
        return self._children("thanoproxy.fronts.process")

    @property
    def workers(self) -> list[int]:
        return self._children("thanoproxy.workers.process")

    @property
    def port(self) -> int:
        found = re.search(r":(\d+)/", self.url)
        assert found is not None
        return int(found[1])

    def _children(self, module: str) -> list[int]:
        with suppress(FileNotFoundError):
            return [pid for pid in children_of(self.parent.pid) if module in Path(f"/proc/{pid}/cmdline").read_text()]
        return []

    def front_of(self, port: int) -> int | None:
        """The front that holds the connection of the client whose own port is `port`; None while nobody has accepted it."""
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            ours, theirs = (int(address.split(":")[1], 16) for address in fields[1:3])
            if (ours, theirs) == (self.port, port) and fields[9] != "0":
                return next((pid for pid in self.fronts if f"socket:[{fields[9]}]" in sockets_of(pid)), None)
        return None

    def one_at_each(self, stack: ExitStack) -> dict[int, psycopg.Connection[tuple[object, ...]]]:
        """A connection through each front."""
        found: dict[int, psycopg.Connection[tuple[object, ...]]] = {}
        while len(found) < FRONTS:
            connection = stack.enter_context(psycopg.connect(self.url, autocommit=True))
            front = self.front_of(port_of(connection.fileno()))
            assert front is not None
            found.setdefault(front, connection)
            time.sleep(0.05)
        return found


def sockets_of(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(os.readlink(entry))
    return found


def port_of(descriptor: int) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        return int(sock.getsockname()[1])


@contextmanager
def running(database: Database, images: Path, folder: Path, **more: str) -> Iterator[Running]:
    temporary = Path(tempfile.mkdtemp(prefix="t-"))  # short: it holds unix sockets
    try:
        with serving(database, images, folder / "artifacts", "--fronts", str(FRONTS), TMPDIR=str(temporary), **more) as (parent, url):
            one = Running(parent, url, temporary)
            with ExitStack() as stack:
                one.one_at_each(stack)  # all are ready
            yield one
    finally:
        shutil.rmtree(temporary)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    return [authority.sign("first"), authority.sign("second")]


@pytest.fixture(scope="module")
def certificate(pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that the fronts read."""
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    put(file, pairs[0])
    return file


def put(file: Path, pair: Pair) -> None:
    file.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())


@pytest.fixture(scope="module")
def two(module_database: Database, image_root: Path, tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Running]:
    tls = {"THANOPROXY_TLS__MODE": "prefer", "THANOPROXY_TLS__CERTIFICATE": str(certificate)}
    with running(module_database, image_root, tmp_path_factory.mktemp("two"), **tls) as one:
        one.url += "?sslmode=disable"
        small_model(one.url)
        yield one


# What clients see.


def test_sessions_are_spread_over_the_fronts_and_share_workers_and_models(two: Running) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(psycopg.connect(two.url, autocommit=True)) for _ in range(6)]
        holders = Counter(two.front_of(port_of(client.fileno())) for client in clients)
        assert set(holders) == set(two.fronts)
        assert min(holders.values()) >= 2
        assert {len(client.execute(PREDICT).fetchall()) for client in clients} == {24}
    assert len(two.workers) == 1


def test_each_front_reads_files(two: Running) -> None:
    with ExitStack() as stack:
        for connection in two.one_at_each(stack).values():
            assert connection.execute("COPY pg_temp.photos OPTIONS () FROM '.'").statusmessage == "COPY 24"


def test_a_job_at_one_front_is_seen_and_left_alone_at_the_other(two: Running) -> None:
    with ExitStack() as stack, RawClient(two.url) as raw:
        raw.send(query(LONG))
        for connection in two.one_at_each(stack).values():
            wait_until(lambda c=connection: running_jobs(c) == [("running", "training")], 30)  # type: ignore[misc]


def running_jobs(connection: psycopg.Connection[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return connection.execute("SELECT state, phase FROM thanosql.jobs WHERE finished_at IS NULL").fetchall()


# Cancel requests.


@contextmanager
def cancel_request(two: Running, owner: int, packet: bytes) -> Iterator[socket.socket]:
    """A cancel request that another front than `owner` has accepted, as long as `owner` cannot."""
    os.kill(owner, signal.SIGSTOP)
    try:
        with socket.create_connection(("127.0.0.1", two.port)) as sock:
            sock.settimeout(20)
            sock.sendall(packet)
            wait_until(lambda: two.front_of(sock.getsockname()[1]) not in (None, owner))
            time.sleep(0.2)
            yield sock
    finally:
        os.kill(owner, signal.SIGCONT)


def key_of(connection: asyncpg.Connection[asyncpg.Record]) -> Cancel:
    protocol = connection._protocol
    return Cancel(protocol.backend_pid, struct.pack("!i", protocol.backend_secret))


def owner_of(two: Running, connection: asyncpg.Connection[asyncpg.Record]) -> int:
    owner = two.front_of(connection._transport.get_extra_info("sockname")[1])
    assert owner is not None
    return owner


@pytest.mark.parametrize("statement", ["SELECT pg_sleep(60)", LONG.decode()])
async def test_a_cancel_that_lands_on_another_front_reaches_the_session(two: Running, statement: str) -> None:
    connection = await asyncpg.connect(two.url)
    task = asyncio.create_task(connection.execute(statement))
    await asyncio.sleep(1)
    assert not task.done()

    def cancel() -> bytes:
        with cancel_request(two, owner_of(two, connection), key_of(connection).encode()) as sock:
            sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                sock.recv(1)  # the server has not been told yet, and the client waits for that
            sock.settimeout(20)
            os.kill(owner_of(two, connection), signal.SIGCONT)
            return sock.recv(1)

    assert await asyncio.to_thread(cancel) == b""
    with pytest.raises(asyncpg.QueryCanceledError, match="canceling statement due to user request"):
        await asyncio.wait_for(task, 10)
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()


async def test_a_wrong_key_cancels_nothing_at_any_front(two: Running) -> None:
    connection = await asyncpg.connect(two.url)
    task = asyncio.create_task(connection.execute("SELECT pg_sleep(2)"))
    await asyncio.sleep(0.5)
    right = key_of(connection)

    def guess(wrong: Cancel) -> bytes:
        with socket.create_connection(("127.0.0.1", two.port)) as sock:
            sock.settimeout(20)
            sock.sendall(wrong.encode())
            return sock.recv(1)

    for wrong in (Cancel(right.pid, bytes(4)), Cancel(right.pid + 1, right.key), Cancel(right.pid, right.key + b"x")) * 2:
        assert await asyncio.to_thread(guess, wrong) == b""
    await task
    await connection.close()


async def test_drivers_cancel_whichever_front_they_come_to(two: Running) -> None:
    connection = await asyncpg.connect(two.url)
    for _ in range(8):
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            await connection.execute("SELECT pg_sleep(60)", timeout=0.1)
        assert await connection.fetchval("SELECT 1") == 1
        assert time.monotonic() - start < 10
    await connection.close()


# Signals to the parent.


def ended(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    """Wait until the proxy ends it, with 57P01."""
    assert select.select([connection], [], [], 5)[0]
    with pytest.raises(psycopg.errors.AdminShutdown):
        connection.execute("SELECT 1")
    return True


def test_sighup_has_every_front_read_its_certificate_again(two: Running, certificate: Path, pairs: list[Pair]) -> None:
    def shown() -> dict[int | None, bytes]:
        found: dict[int | None, bytes] = {}
        with ExitStack() as stack:  # all stay open until each front has shown its own
            while len(found) < FRONTS:
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", two.port)))
                sock.sendall(request(SSL_REQUEST))
                assert sock.recv(1) == b"S"
                front = two.front_of(sock.getsockname()[1])
                tls = stack.enter_context(context.wrap_socket(sock))
                found[front] = tls.getpeercert(binary_form=True) or b""
        return found

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    first, second = (ssl.PEM_cert_to_DER_cert(pair.certificate.read_text()) for pair in pairs)
    assert shown() == dict.fromkeys(two.fronts, first)
    put(certificate, pairs[1])
    two.parent.send_signal(signal.SIGHUP)
    wait_until(lambda: shown() == dict.fromkeys(two.fronts, second))


@pytest.mark.timeout(120)
def test_sigterm_drains_every_front(database: Database, image_root: Path, tmp_path: Path) -> None:
    with running(database, image_root, tmp_path) as one, ExitStack() as stack:
        for pid in one.fronts + one.workers:
            os.kill(pid, signal.SIGTERM)  # as a service manager would, to each of its processes
        idle = one.one_at_each(stack)
        busy = one.one_at_each(stack)
        everybody = [*one.fronts, *one.workers]
        for connection in busy.values():
            connection.execute("BEGIN")
        one.parent.send_signal(signal.SIGTERM)
        assert all(map(ended, idle.values()))
        for connection in busy.values():
            assert connection.execute("SELECT 'still here'").fetchone() == ("still here",)
            connection.execute("COMMIT")
            assert ended(connection)
        assert one.parent.wait(20) == 0
        assert not any(map(alive, everybody))
        assert list(one.temporary.glob("thanoproxy-*")) == []


# Deaths.


def test_a_front_that_is_killed_is_replaced_and_the_other_does_not_notice(two: Running) -> None:
    with ExitStack() as stack:
        (killed, lost), (kept, other) = two.one_at_each(stack).items()
        raw = next(client for client in (stack.enter_context(RawClient(two.url)) for _ in range(9)) if two.front_of(port(client)) == killed)
        raw.send(query(LONG))
        wait_until(lambda: running_jobs(other) == [("running", "training")], 30)
        other.execute("BEGIN")
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(psycopg.OperationalError):
            lost.execute("SELECT 1")
        assert len(other.execute(PREDICT).fetchall()) == 24
        other.execute("COMMIT")
        wait_until(lambda: running_jobs(other) == [])
        assert other.execute("SELECT DISTINCT error FROM thanosql.jobs WHERE error LIKE '%gone'").fetchone() == (
            "the proxy that ran this job is gone",
        )
        wait_until(lambda: len(two.fronts) == FRONTS and killed not in two.fronts)
        assert kept in two.fronts
        again = two.one_at_each(stack)
        assert set(again) == set(two.fronts)
        assert {len(connection.execute(PREDICT).fetchall()) for connection in again.values()} == {24}


def port(client: RawClient) -> int:
    return int(client.socket.getsockname()[1])


def test_a_worker_that_is_killed_is_replaced_at_every_front(two: Running) -> None:
    with ExitStack() as stack:
        connections = two.one_at_each(stack).values()
        (worker,) = two.workers
        os.kill(worker, signal.SIGKILL)
        assert {len(connection.execute(PREDICT).fetchall()) for connection in connections} == {24}
        assert two.workers != [worker]


@pytest.mark.timeout(120)
def test_nothing_outlives_a_parent_that_is_killed(database: Database, image_root: Path, tmp_path: Path) -> None:
    with running(database, image_root, tmp_path) as one, RawClient(one.url) as raw:
        everybody = [*one.fronts, *one.workers]
        one.parent.send_signal(signal.SIGKILL)
        one.parent.wait(10)
        wait_until(lambda: not any(map(alive, everybody)))
        with pytest.raises((EOFError, ConnectionError)):
            raw.read()
        wait_until(lambda: list(one.temporary.glob("thanoproxy-*")) == [])


# Settings.


def test_what_is_wrong_with_a_front_ends_2_with_one_line(database: Database, tmp_path: Path) -> None:
    done = thanoproxy(
        "serve", "--upstream", database.url, "--listen", "127.0.0.1:0", "--fronts", "2", THANOPROXY_WORKERS__DEVICES="cpu",
        THANOPROXY_ARTIFACTS__URL=tmp_path.as_uri(), THANOPROXY_TLS__MODE="require", THANOPROXY_TLS__CERTIFICATE="/no/such",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "tls.certificate: cannot use /no/such: No such file or directory" in done.stderr.splitlines()[-1]


def test_workers_in_a_thread_cannot_be_shared() -> None:
    done = thanoproxy("serve", "--upstream", NOWHERE, "--fronts", "2", THANOPROXY_WORKERS__POOL="inline")
    assert (done.returncode, done.stdout) == (2, "")
    assert "server.fronts: several fronts cannot share the workers of workers.pool = inline" in done.stderr
