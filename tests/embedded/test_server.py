"""The embedded PostgreSQL's life: made, stopped, left by a crash, adopted, refused."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from thanoproxy.embedded import EmbeddedPostgres, password_path, temporary_directory
from thanoproxy.embedded import postmaster as pidfile
from thanoproxy.errors import ConfigurationError

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_directory("thanoproxy-test-") as path:
        yield path


def embedded(folder: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(folder / "pg", durable=False, copy_binaries=True)


def ask(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return row[0]


def gone(pid: int) -> bool:
    """Reaped by us or, where we are not the parent, by whoever is."""
    for _ in range(500):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


def crash(folder: Path, *, tied: bool = False) -> int:
    """Another process starts the server and dies of SIGKILL; the server's pid."""
    code = f"""
        import os, pathlib, signal
        from thanoproxy.embedded import EmbeddedPostgres
        server = EmbeddedPostgres(pathlib.Path({str(folder / "pg")!r}), durable=False, copy_binaries=True, tied={tied}).start()
        print(server.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return int(done.stdout)


def test_it_keeps_its_data_and_its_password(folder: Path) -> None:
    with embedded(folder) as server:
        pid, password = server.pid, server.password
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS i")
        assert ask(server.url, "SHOW server_version_num") >= "180000"  # type: ignore[operator]
        assert ask(server.url, "SELECT upper('ä')") == "Ä"
        assert ask(server.url, "SHOW server_encoding") == "UTF8"
        assert ask(server.url, "SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'") == 1
    assert gone(pid)
    with embedded(folder) as server:
        assert server.password == password
        assert ask(server.url, "SELECT i FROM kept") == 7


def test_nobody_gets_in_without_the_password(folder: Path) -> None:
    with embedded(folder) as server:
        assert server.socket_directory is not None
        for host in ("127.0.0.1", str(server.socket_directory)):
            for password in ("", "wrong"):
                with pytest.raises(psycopg.OperationalError, match="password"):
                    psycopg.connect(host=host, port=server.port, user="postgres", password=password, dbname="postgres", passfile="/none")
        with psycopg.connect(host=str(server.socket_directory), port=server.port, user="postgres", password=server.password):
            pass
        with psycopg.connect(server.client_url("127.0.0.1", server.port)):
            pass
        assert server.password not in server.client_url("127.0.0.1", server.port)
    assert server.password_file == folder / "pg.password"
    assert server.password_file.stat().st_mode & 0o777 == 0o600


async def test_within_async_with_and_when_cancelled(folder: Path) -> None:
    async with embedded(folder) as server:
        pid = server.pid
        assert server.running
    assert gone(pid)
    assert not server.running

    async def work() -> None:
        async with server:
            pytest.fail("was cancelled before")

    task = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not (folder / "pg/postgres/postmaster.pid").exists()


def test_a_server_left_by_a_crash_is_adopted_and_stopped(folder: Path) -> None:
    left = crash(folder)
    assert not gone_now(left)
    with embedded(folder) as server:
        assert server.pid == left
        assert server.running
        assert ask(server.url, "SELECT 1") == 1
    assert gone(left)


def test_a_tied_server_ends_with_us(folder: Path) -> None:
    assert gone(crash(folder, tied=True))


def gone_now(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_server_killed_with_its_parent_recovers(folder: Path) -> None:
    left = crash(folder)
    os.kill(left, signal.SIGKILL)
    assert gone(left)
    assert (folder / "pg/postgres/postmaster.pid").exists()
    with embedded(folder) as server:
        assert ask(server.url, "SELECT 1") == 1


def test_a_stale_pid_that_belongs_to_somebody_else_now(folder: Path) -> None:
    with embedded(folder) as server:
        data = server.data
        kept = (data / "postmaster.pid").read_text().split("\n")
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        (data / "postmaster.pid").write_text("\n".join([str(sleeper.pid), *kept[1:]]))
        stale = pidfile.read(data)
        assert stale is not None
        assert not pidfile.alive(stale, data)
        with embedded(folder) as server:
            assert ask(server.url, "SELECT 1") == 1
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_lost_password_file_gets_a_new_password(folder: Path) -> None:
    with embedded(folder) as server:
        old = server.password
    server.password_file.unlink()
    with embedded(folder) as server:
        assert server.password != old
        assert ask(server.url, "SELECT 1") == 1
    left = crash(folder)
    server.password_file.unlink()
    with embedded(folder) as server:
        assert server.pid != left
        assert ask(server.url, "SELECT 1") == 1


def test_two_cannot_share_a_folder(folder: Path) -> None:
    with embedded(folder) as server:
        with pytest.raises(ConfigurationError, match=rf"in use by another thanoproxy \(process {os.getpid()}\)"):
            embedded(folder).start()
        assert server.running


def test_a_server_that_is_killed_is_noticed(folder: Path) -> None:
    with embedded(folder) as server:
        os.kill(server.pid, signal.SIGQUIT)
        deadline = time.monotonic() + 10
        while server.running and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not server.running


def test_looking_starts_nothing(folder: Path) -> None:
    server = embedded(folder)
    assert server.inspect() is None
    assert not server.directory.exists()
    with server:
        assert embedded(folder).inspect() == server.url
    assert server.inspect() is None


def test_a_folder_whose_name_is_too_long_for_a_socket(folder: Path) -> None:
    with embedded(folder / ("x" * 100)) as server:
        assert server.socket_directory is None
        assert ask(server.url, "SELECT 1") == 1


def test_a_port_that_is_taken(folder: Path) -> None:
    with embedded(folder) as server, pytest.raises(ConfigurationError, match="did not start") as caught:
        EmbeddedPostgres(folder / "other", port=server.port, durable=False, copy_binaries=True).start()
    assert "\n" not in caught.value.message


def test_the_password_lies_inside_where_beside_is_not_ours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert password_path(folder / "new" / "pg") == folder / "new" / "pg.password"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)
    assert password_path(folder / "pg") == folder / "pg" / "password"
    (folder / "pg.password").write_text("")
    assert password_path(folder / "pg") == folder / "pg.password"


@pytest.mark.parametrize("case", ["a file", "below a file", "no cluster"])
def test_folders_that_cannot_be_used(folder: Path, case: str) -> None:
    (folder / "file").write_text("")
    (folder / "pg" / "postgres").mkdir(parents=True)
    target = {"a file": folder / "file", "below a file": folder / "file" / "pg", "no cluster": folder / "pg"}[case]
    if os.geteuid() == 0 and case == "no cluster":
        os.chown(folder / "pg" / "postgres", 65534, 65534)
    with pytest.raises(ConfigurationError, match="--embedded") as caught:
        EmbeddedPostgres(target, durable=False).start()
    assert "\n" not in caught.value.message


@AS_ROOT
def test_as_root_a_closed_folder_is_named_and_left_closed(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match=rf"no access to {closed}$"):
        embedded(closed).start()
    assert closed.stat().st_mode & 0o777 == 0o700


@AS_ROOT
def test_as_root_what_we_make_can_be_entered_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0o077)
    try:
        with embedded(folder / "a" / "b") as server:
            assert ask(server.url, "SELECT 1") == 1
    finally:
        os.umask(before)
    assert (folder / "a/b/pg/postgres").stat().st_uid != 0


@AS_ROOT
def test_as_root_closed_programs_are_named_or_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from thanoproxy.embedded import server as module
    from thanoproxy.embedded.binaries import copy_binaries, find_binaries

    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    inside = copy_binaries(find_binaries(), closed / "package")
    monkeypatch.setattr(module, "find_binaries", lambda wanted: inside)
    with pytest.raises(ConfigurationError, match=rf"PostgreSQL's programs: no access to {closed}$"):
        EmbeddedPostgres(folder / "pg", durable=False).start()
    with EmbeddedPostgres(folder / "pg", durable=False, copy_binaries=True) as server:
        assert ask(server.url, "SELECT 1") == 1


@AS_ROOT
def test_a_cluster_of_root_is_refused(folder: Path) -> None:
    (folder / "pg" / "postgres").mkdir(parents=True)
    (folder / "pg" / "postgres" / "PG_VERSION").write_text("18\n")
    with pytest.raises(ConfigurationError, match="belongs to user id 0"):
        embedded(folder).start()
