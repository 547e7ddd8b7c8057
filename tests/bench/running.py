"""What the benchmarks start, and what they read of it from /proc."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.ports import free_port
from thanoproxy.embedded import EmbeddedPostgres

__all__ = ["Served", "child", "cpu_seconds", "family", "percentiles", "resident_kb", "serving", "url_of"]

TICK = os.sysconf("SC_CLK_TCK")


class Served(NamedTuple):
    """A running `thanoproxy serve`; its models lie below `artifacts`."""

    port: int
    pid: int
    artifacts: Path


@contextmanager
def serving(postgres: EmbeddedPostgres, *flags: str) -> Iterator[Served]:
    """`thanoproxy serve` in front of `postgres`, with these flags besides."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="thanoproxy-bench-") as folder:
        environment = {**os.environ, "THANOPROXY_ARTIFACTS__URL": Path(folder).as_uri()}
        command = [sys.executable, "-m", "thanoproxy", "serve", "--listen", f"127.0.0.1:{port}", "--upstream", postgres.url, *flags]
        with child(command, port, env=environment) as process:
            yield Served(port, process.pid, Path(folder))


def url_of(postgres: EmbeddedPostgres, port: int) -> str:
    """Where a driver finds the server on `port`: PostgreSQL itself, or what stands in front of it."""
    return postgres.client_url("127.0.0.1", port).split("?")[0].replace("postgres@", f"postgres:{postgres.password}@")


@contextmanager
def child(command: list[str], port: int, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    try:
        _wait_for_port(port, process)
        yield process
    finally:
        process.terminate()
        process.wait(20)


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"{process.args} ended with {process.returncode}")
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port}")


def cpu_seconds(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICK


def resident_kb(pid: int) -> int:
    match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert match is not None, "Linux says how much memory a process has"
    return int(match[1])


def family(pid: int) -> list[int]:
    """A process and all that it has started, directly or not."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(_stat(int(entry.name))[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = [pid]
    for one in found:
        found += [other for other, parent in parents.items() if parent == one]
    return found


def _stat(pid: int) -> list[str]:
    """From the state on: the name before it may hold blanks and brackets (proc_pid_stat(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def percentiles(taken: list[float]) -> tuple[float, float]:
    """The 50th and the 99th."""
    ordered = sorted(taken)
    return ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
