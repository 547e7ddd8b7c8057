"""A private cluster for one run of a suite, and a proxy in front of it: the program itself, as `thanoproxy serve` runs it.

`python -m tests.conformance.servers URL [SETTINGS]` starts such a proxy, prints its port and ends with its standard input; SETTINGS are
sections of settings as JSON.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.conformance.distribution import Distribution, DistributionError
from tests.ports import free_port
from thanoproxy.embedded.account import Account

__all__ = ["HOST", "OWNER", "running_cluster", "running_proxy"]

HOST = "127.0.0.1"
OWNER = "postgres"
START_SECONDS = 60

Sections = Mapping[str, Mapping[str, str]]
"""Settings by section and name."""

# max_prepared_transactions as PostgreSQL's makefile sets it for its suites; no wait for the disk.
SETTINGS = {"max_prepared_transactions": "2", "fsync": "off", "unix_socket_directories": "", "listen_addresses": HOST}

LISTENING = re.compile(r"^listening on \S+ port (\d+);", re.MULTILINE)


@contextmanager
def running_cluster(made: Distribution, account: Account, folder: Path) -> Iterator[int]:
    """A new cluster in `folder` that trusts everybody on this machine; yields its port."""
    data, port = folder / "data", free_port()
    new = ("--no-locale", "--encoding=UTF8", "--auth=trust", f"--username={OWNER}", "--no-sync", "-D", data)
    control: list[str | Path] = [made.binaries / "pg_ctl", "--wait", f"--timeout={START_SECONDS}", "-D", data]
    settings = " ".join(f"-c {name}='{value}'" for name, value in {**SETTINGS, "port": str(port)}.items())
    owned_folder(data, account)
    run_as_owner(made, account, [made.binaries / "initdb", *new])
    run_as_owner(made, account, [*control, f"--log={data / 'log'}", f"--options={settings}", "start"])
    try:
        yield port
    finally:
        run_as_owner(made, account, [*control, "--mode=immediate", "stop"])


def owned_folder(folder: Path, account: Account) -> None:
    """A new folder that the user who runs PostgreSQL may write to."""
    folder.mkdir(parents=True)
    account.own(folder)


def run_as_owner(made: Distribution, account: Account, words: Sequence[str | Path]) -> None:
    """Run a program of the distribution as the user who runs PostgreSQL."""
    done = subprocess.run(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # a pipe would stay open in the server that pg_ctl starts
        stderr=subprocess.DEVNULL if "start" in words else subprocess.PIPE,
        text=True,
        env=made.environment(),
        cwd="/",
        timeout=2 * START_SECONDS,
        check=False,
        **account.popen_arguments(),
    )
    if done.returncode != 0:
        raise DistributionError(f"{Path(words[0]).name} failed: {(done.stderr or '').strip()}")


@contextmanager
def running_proxy(upstream: str, folder: Path, more: Sections | None = None) -> Iterator[int]:
    """`thanoproxy serve` in front of the server at the URL `upstream`; yields its port.  What it logs is in `folder`."""
    log = folder / "proxy.log"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "thanoproxy", "serve"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=proxy_environment(upstream, folder, more or {}),
        )
    try:
        yield port_of(process, log)
    finally:
        stop(process)


def proxy_environment(upstream: str, folder: Path, more: Sections) -> dict[str, str]:
    """Settings of our own only; the models run in the proxy's process, since no suite uses them."""
    named = {f"THANOPROXY_{section}__{name}".upper(): value for section, names in more.items() for name, value in names.items()}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("THANOPROXY_", "PG"))}
    return {
        **kept,
        "THANOPROXY_SERVER__PORT": "0",
        "THANOPROXY_UPSTREAM__URL": upstream,
        "THANOPROXY_ARTIFACTS__URL": (folder / "artifacts").as_uri(),
        "THANOPROXY_WORKERS__POOL": "inline",
        "THANOPROXY_WORKERS__DEVICES": "cpu",
        **named,
    }


def port_of(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port that the proxy says it listens on."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        said = LISTENING.search(log.read_text(encoding="utf-8"))
        if said:
            return int(said[1])
        time.sleep(0.1)
    raise DistributionError(f"the proxy does not start: {log.read_text(encoding='utf-8').strip()}")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> None:
    url, more = sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    with tempfile.TemporaryDirectory(prefix="thanoproxy-conformance-") as folder, running_proxy(url, Path(folder), more) as port:
        print(port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
