"""Commands as a shell runs them: what they print, and how they end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.databases import Database
from thanoproxy.catalog.artifacts import open_store
from thanoproxy.catalog.install import LATEST, MIGRATIONS
from thanoproxy.embedded import temporary_directory

COMMAND = [sys.executable, "-m", "thanoproxy"]
NOWHERE = "postgresql://x:geheim@127.0.0.1:1/x"


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("THANOPROXY_", "PG"))}
    return {**kept, **more}


def thanoproxy(*words: str | Path, seconds: float = 120, **more: str) -> subprocess.CompletedProcess[str]:
    """What one command came to; if it takes more than `seconds`, it and its children are killed, and what it said is in the failure."""
    command = [*COMMAND, *map(str, words)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**more), start_new_session=True
    ) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as late:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"{command} takes more than {seconds} s; it has said {late.stdout!r}, {late.stderr!r}")
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_directory("thanoproxy-test-") as path:
        yield path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serve"], "upstream.url is not set"),
        (["init"], "upstream.url is not set"),
        (["serve", "--listen", "x", "--upstream", NOWHERE], "--listen: 'x' is not HOST:PORT"),
        (["serve", "--upstream", "mysql://x:geheim@h"], "upstream.url: should begin with postgresql://"),
        (["serve", "--upstream", NOWHERE, "--image-root", "/no/such"], "images.roots: /no/such does not exist"),
        (["serve", "--upstream", NOWHERE, "--weights-root", "/dev/null"], "weights.roots: /dev/null is not a folder"),
        (["serve", "--config", "/no/such"], "cannot read the configuration file /no/such"),
        (["demo", "--images", "/no/such"], "--images: /no/such is not a folder"),
    ],
)
def test_wrong_configuration_is_one_line_and_ends_2(words: list[str], message: str) -> None:
    done = thanoproxy(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith(f"thanoproxy {words[0]}: {message}")
    assert "geheim" not in line


@pytest.mark.parametrize(
    "words",
    [[], ["dance"], ["serve", "--bogus"], ["serve", "--upstream", "x", "--embedded"], ["serve", "--listen"], ["check", "x"]],
)
def test_wrong_usage_ends_2(words: list[str]) -> None:
    done = thanoproxy(*words)
    assert done.returncode == 2
    assert "usage: thanoproxy" in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"], ["--version"]])
def test_help_ends_0(words: list[str]) -> None:
    assert thanoproxy(*words).returncode == 0


def test_init(empty_database: Database) -> None:
    first = thanoproxy("init", "--upstream", empty_database.url)
    applied = "".join(f"applied migration {migration.version} ({migration.name})\n" for migration in MIGRATIONS)
    assert (first.returncode, first.stdout) == (0, f"{applied}schema thanosql is at version {LATEST}\n")
    again = thanoproxy("init", THANOPROXY_UPSTREAM__URL=empty_database.url)
    assert (again.returncode, again.stdout) == (0, f"schema thanosql is at version {LATEST}, nothing to do\n")


def test_init_that_fails_ends_1(empty_database: Database) -> None:
    _, url = empty_database.add_role()
    for upstream, message in (
        (url, "permission denied"),
        (NOWHERE, "cannot connect"),
        (empty_database.url + "x", "does not exist"),
    ):
        done = thanoproxy("init", "--upstream", upstream)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert "geheim" not in done.stderr


def test_sweep(database: Database, tmp_path: Path) -> None:
    url = (tmp_path / "artifacts").as_uri()
    gone = open_store(url).save(b"w", architecture="A", classes=[], preprocessing={}, metrics={}, options={}, software={}).id
    environment = {"THANOPROXY_UPSTREAM__URL": database.url, "THANOPROXY_ARTIFACTS__URL": url, "THANOPROXY_ARTIFACTS__SWEEP_AFTER": "1"}
    for words, last in (
        ([], "0 of 1 files that no model needs deleted"),
        (["--dry-run"], "0 of 1 files that no model needs would be deleted"),
    ):
        done = thanoproxy("sweep", *words, **environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"manifests/{gone}.json: not needed since 2")
        assert done.stdout.splitlines()[-1] == last
    [(mark, _)] = open_store(url).files.keys("unused")
    open_store(url).files.put(mark, b"1000000000")
    done = thanoproxy("sweep", "--dry-run", **environment)
    assert "2001-09-09 01:46:40 UTC, " in done.stdout


def test_psql_runs_against_the_proxy(database: Database) -> None:
    """The server itself stands in for the proxy."""
    done = thanoproxy(
        "psql", "-X", "-A", "-t", "-c", "SELECT current_user, current_database()",
        THANOPROXY_UPSTREAM__URL=f"postgresql://postgres@elsewhere/{database.name}",
        THANOPROXY_SERVER__PORT=str(database.postgres.port), PGPASSWORD=database.postgres.password, PGHOST="elsewhere", PGPORT="1",
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, f"postgres|{database.name}\n", "")


def test_psqls_own_arguments_and_exit_code_are_its_own(database: Database) -> None:
    done = thanoproxy("psql", database.url, "-X", "-v", "ON_ERROR_STOP=1", "-c", "SELECT 1/0")
    assert done.returncode == 1
    assert "division by zero" in done.stderr
    assert thanoproxy("psql", "--version").stdout.startswith("psql (PostgreSQL)")


def test_check(database: Database, tmp_path: Path) -> None:
    done = thanoproxy(
        "check", "--upstream", database.url, "--image-root", tmp_path,
        THANOPROXY_ARTIFACTS__URL=(tmp_path / "artifacts").as_uri(), THANOPROXY_WORKERS__DEVICES="cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [re.split(r"  +", line) for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines][:7] == [
        ["ok", name] for name in ("config", "upstream", "database", "schema", "images", "artifacts", "devices")
    ]
    assert {line[0] for line in lines} <= {"ok", "note"}
    assert database.postgres.password not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_check_that_finds_problems_ends_1(empty_database: Database, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = thanoproxy(
        "check", "--upstream", empty_database.url, "--image-root", "/no/such",
        THANOPROXY_ARTIFACTS__URL=(tmp_path / "file" / "x").as_uri(), THANOPROXY_WORKERS__DEVICES="cuda:77",
        THANOPROXY_TLS__MODE="require", THANOPROXY_TLS__CERTIFICATE="/no/such.crt", THANOPROXY_IMAGES__URL_HOSTS="localhost",
    )  # fmt: skip
    assert done.returncode == 1
    assert "FAIL  images      images.url_hosts: localhost has an address that may not be used" in done.stdout
    failed = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("FAIL")}
    assert set(failed) == {"schema", "images", "artifacts", "devices", "tls"}
    assert "tls.certificate: cannot use /no/such.crt: No such file" in failed["tls"]
    assert "thanoproxy init" in failed["schema"]
    assert "cuda:77" in failed["devices"]


def wait_for(process: subprocess.Popen[str], pattern: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(pattern, line):
            return found[1]
    process.wait()
    raise AssertionError("serve ended before it listened")


def test_serve_embedded_from_start_to_sigterm(folder: Path) -> None:
    """Twice: the second start finds the cluster of the first."""
    for _ in range(2):
        words = [*COMMAND, "serve", "--embedded", str(folder / "pg"), "--listen", "127.0.0.1:0"]
        settings = {"THANOPROXY_ARTIFACTS__URL": (folder / "artifacts").as_uri(), "THANOPROXY_WORKERS__DEVICES": "cpu"}
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment(**settings)) as serve:
            try:
                url = wait_for(serve, r'psql "(postgresql://.*)"')
                with psycopg.connect(url) as connection:
                    assert connection.execute("SELECT count(*) FROM thanosql.models").fetchone() == (0,)
                assert "passfile=" in url
            finally:
                serve.send_signal(signal.SIGTERM)
            assert serve.wait(30) == 0
        assert not (folder / "pg/postgres/postmaster.pid").exists()


def test_serve_ends_1_when_its_embedded_server_is_killed(folder: Path) -> None:
    words = [*COMMAND, "serve", "--embedded", str(folder / "pg"), "--listen", "127.0.0.1:0"]
    settings = {"THANOPROXY_ARTIFACTS__URL": (folder / "artifacts").as_uri(), "THANOPROXY_WORKERS__DEVICES": "cpu"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**settings)) as serve:
        wait_for(serve, r'psql "(postgresql://.*)"')
        postmaster = int((folder / "pg/postgres/postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGQUIT)
        _, errors = serve.communicate(timeout=60)
    assert serve.returncode == 1
    assert "the embedded PostgreSQL has stopped" in errors.splitlines()[-1]


def test_a_signal_during_the_start_leaves_nothing_running(folder: Path) -> None:
    words = [*COMMAND, "serve", "--embedded", str(folder / "pg"), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()) as serve:
        while not (folder / "pg/postgres/postmaster.pid").exists():
            time.sleep(0.01)
            assert serve.poll() is None
        serve.send_signal(signal.SIGTERM)
        assert serve.wait(30) == 0
    assert not (folder / "pg/postgres/postmaster.pid").exists()


def test_a_port_that_is_taken_ends_2(database: Database, tmp_path: Path) -> None:
    address = f"127.0.0.1:{database.postgres.port}"
    done = thanoproxy("serve", "--upstream", database.url, "--listen", address, THANOPROXY_ARTIFACTS__URL=(tmp_path / "artifacts").as_uri())
    assert done.returncode == 2
    assert f"server.port: cannot listen on 127.0.0.1 port {database.postgres.port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr
