"""What the proxy costs ordinary SQL, beside PgBouncer in session mode and a direct connection, in one interleaved run.

    python -m tests.bench.relay [--seconds S] [--rounds N]

CPU per query of the proxy's process is the steadier figure on a noisy machine; throughput is taken as the median over rounds of the
ratio of neighbours in time.  A run of pgbench goes on for a second more than it is asked to, and its first second is no part of
throughput and latency: while its clients log in, a direct connection and ours get a new server process each, whose caches are empty,
and PgBouncer takes one that the last run has used.  What that second makes of it is a figure of its own.  The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import asyncpg
import psycopg

from tests.bench.running import child, cpu_seconds, percentiles, resident_kb, serving, url_of
from tests.ports import free_port
from thanoproxy.embedded import EmbeddedPostgres, temporary_directory

MODES = ("simple", "extended", "prepared")
CLIENTS = (1, 8, 32)
COPY_ROWS = 2_000_000
IDLE = 2000
SAMPLES = 0.1  # of the transactions have their latency logged


@dataclass
class Target:
    """Something to connect to; `pid` is the process whose CPU and memory count."""

    name: str
    port: int
    pid: int | None
    tps: dict[str, list[float]] = field(default_factory=dict)
    whole: dict[str, list[float]] = field(default_factory=dict)  # the same with the first second
    cpu: dict[str, list[float]] = field(default_factory=dict)
    latencies: dict[str, list[float]] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)


def find(program: str, package: str) -> str:
    found = shutil.which(program) or shutil.which(f"/usr/sbin/{program}")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-qq", package], check=False, stdout=subprocess.DEVNULL)
        found = shutil.which(program) or shutil.which(f"/usr/sbin/{program}")
    if found is None:
        raise SystemExit(f"{program} is missing: install the package {package}")
    return found


@contextmanager
def pgbouncer(postgres: EmbeddedPostgres) -> Iterator[Target]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="thanoproxy-bench-") as folder:
        os.chmod(folder, 0o755)
        users = Path(folder, "users.txt")
        users.write_text(f'"postgres" "{postgres.password}"\n')
        settings = Path(folder, "pgbouncer.ini")
        settings.write_text(
            f"[databases]\n* = host=127.0.0.1 port={postgres.port}\n[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\n"
            f"auth_type=scram-sha-256\nauth_file={users}\npool_mode=session\nmax_client_conn=5000\ndefault_pool_size=2000\n"
            "ignore_startup_parameters=extra_float_digits\nunix_socket_dir=\n"
        )
        command = [find("pgbouncer", "pgbouncer"), str(settings)]
        options = {"user": "nobody", "group": "nogroup", "extra_groups": ()} if os.geteuid() == 0 else {}
        with child(command, port, **options) as process:
            yield Target("pgbouncer", port, process.pid)


@contextmanager
def thanoproxy(postgres: EmbeddedPostgres) -> Iterator[Target]:
    with serving(postgres) as served:
        yield Target("thanoproxy", served.port, served.pid)


class Run(NamedTuple):
    """One run of pgbench; latencies are in microseconds."""

    transactions: int
    tps: float
    whole_tps: float
    latencies: list[float]


def pgbench(postgres: EmbeddedPostgres, target: Target, mode: str, clients: int, seconds: int) -> Run:
    command = [find("pgbench", "postgresql-contrib"), "-h", "127.0.0.1", "-p", str(target.port), "-U", "postgres", "-n", "-S"]
    command += ["-l", f"--sampling-rate={SAMPLES}", "-P", "1"]
    command += ["-M", mode, "-c", str(clients), "-j", "1", "-T", str(1 + seconds), "postgres"]
    environment = {**os.environ, "PGPASSWORD": postgres.password}
    with tempfile.TemporaryDirectory(prefix="thanoproxy-bench-") as folder:
        run = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=seconds + 60, check=True)
        logged = [line.split() for file in Path(folder).glob("pgbench_log.*") for line in file.read_text().splitlines()]
    processed = re.search(r"actually processed: (\d+)", run.stdout)
    whole = re.search(r"tps = ([\d.]+)", run.stdout)
    assert processed is not None, run.stdout
    assert whole is not None, run.stdout
    each_second = [float(tps) for tps in re.findall(r"progress: [\d.]+ s, ([\d.]+) tps", run.stderr)]
    ended = [int(line[4]) + int(line[5]) / 1e6 for line in logged]  # since 1970, in seconds
    latencies = [float(line[2]) for line, at in zip(logged, ended, strict=True) if at >= min(ended) + 1]
    return Run(int(processed[1]), statistics.fmean(each_second[1:]), float(whole[1]), latencies)


def rotated(targets: list[Target], turn: int) -> list[Target]:
    """In another order each turn, so that nobody always comes behind the same one."""
    at = turn % len(targets)
    return targets[at:] + targets[:at]


def measure_queries(postgres: EmbeddedPostgres, targets: list[Target], seconds: int, rounds: int) -> None:
    print(f"{'':14}{'':>12}{'tps':>10}{'p50 us':>9}{'p99 us':>9}{'CPU us/query':>14}")
    for mode in MODES:
        for clients in CLIENTS:
            key = f"{mode}_c{clients}"
            for turn in range(rounds):
                for target in rotated(targets, turn):
                    before = cpu_seconds(target.pid) if target.pid else 0.0
                    run = pgbench(postgres, target, mode, clients, seconds)
                    target.latencies.setdefault(key, []).extend(run.latencies)
                    target.tps.setdefault(key, []).append(run.tps)
                    target.whole.setdefault(key, []).append(run.whole_tps)
                    if target.pid:
                        target.cpu.setdefault(key, []).append((cpu_seconds(target.pid) - before) / run.transactions * 1e6)
            for target in targets:
                cpu = f"{statistics.median(target.cpu[key]):14.1f}" if target.pid else ""
                p50, p99 = percentiles(target.latencies[key])
                print(f"{key:14}{target.name:>12}{statistics.median(target.tps[key]):10.0f}{p50:9.0f}{p99:9.0f}{cpu}", flush=True)


async def latencies(url: str, count: int) -> list[float]:
    connection = await asyncpg.connect(url)
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        await connection.fetchval("SELECT 1")
        taken.append((time.perf_counter() - start) * 1e6)
    await connection.close()
    return taken


# Each gives a rate.  What is read is read twice in one connection and timed the second time: PgBouncer hands out server processes
# that have read it before, and a new one is slow until the shared buffers are mapped.


def copy_out(url: str) -> float:
    """MB/s by psql, which keeps up with the server better than Python does."""
    copy = ["-c", "COPY wide TO STDOUT"]
    command = [find("psql", "postgresql-client"), "-X", "-q", "-o", os.devnull, *copy, "-c", "\\timing on", *copy, url]
    output = subprocess.run(command, check=True, timeout=300, capture_output=True, text=True).stdout
    taken = re.search(r"Time: ([\d.]+) ms", output)
    assert taken is not None, output
    return COPY_ROWS * 98 / 1e6 / (float(taken[1]) / 1e3)


def select_all(url: str) -> float:
    """MB/s through a server-side cursor."""
    taken = 0.0
    with psycopg.connect(url) as connection:
        for _ in range(2):
            with connection.cursor(name="wide") as cursor:
                cursor.itersize = 50_000
                start = time.perf_counter()
                rows = sum(1 for _ in cursor.execute("SELECT * FROM wide LIMIT 300000"))
                taken = time.perf_counter() - start
    return rows * 98 / 1e6 / taken


def connections(url: str) -> float:
    """Connections per second, one after the other."""
    start = time.perf_counter()
    for _ in range(100):
        psycopg.connect(url).close()
    return 100 / (time.perf_counter() - start)


def measure_rates(targets: list[Target], url: Callable[[Target], str], rounds: int) -> None:
    works = {"copy_mb_s": copy_out, "select_mb_s": select_all, "connections_s": connections}
    for name, work in works.items():
        for turn in range(3 * rounds):
            for target in rotated(targets, turn):
                target.rates.setdefault(name, []).append(work(url(target)))
        shown = ", ".join(f"{target.name} {statistics.median(target.rates[name]):.0f}" for target in targets)
        print(f"{name:14}{shown}", flush=True)


def idle_kb(target: Target, url: str, limit: int) -> float:
    """Resident memory of the proxy for each idle connection."""
    assert target.pid is not None, "a proxy has a process"
    with ExitStack() as stack:
        stack.enter_context(psycopg.connect(url))
        before = resident_kb(target.pid)
        for _ in range(limit):
            stack.enter_context(psycopg.connect(url))
        return (resident_kb(target.pid) - before) / limit


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def ratios(mine: dict[str, list[float]], other: dict[str, list[float]]) -> dict[str, float]:
    """Median over rounds of the ratio of neighbours."""
    return {key: round(statistics.median(a / b for a, b in zip(values, other[key], strict=True)), 3) for key, values in mine.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3, help="of each pgbench run")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_directory("thanoproxy-bench-"))
        postgres = stack.enter_context(EmbeddedPostgres(folder / "pg", durable=False, copy_binaries=True))
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET max_connections = 2100")
            # Else a scan may pin so few buffers that it is three times slower (PostgreSQL 18 divides them among all connections).
            connection.execute("ALTER SYSTEM SET shared_buffers = '1GB'")
            version = connection.info.server_version
        postgres.stop()
        postgres.start()
        direct = Target("direct", postgres.port, None)
        bouncer = stack.enter_context(pgbouncer(postgres))
        ours = stack.enter_context(thanoproxy(postgres))
        targets = [direct, bouncer, ours]
        prepare(postgres)
        print(f"PostgreSQL {version}, {os.cpu_count()} cores, {options.rounds} rounds of {options.seconds} s")
        measure_queries(postgres, targets, options.seconds, options.rounds)

        def url(target: Target) -> str:
            return url_of(postgres, target.port)

        measure_rates(targets, url, options.rounds)
        for target in targets:
            p50, p99 = percentiles(asyncio.run(latencies(url(target), 3000)))
            print(f"{target.name}: p50 {p50:.0f} us, p99 {p99:.0f} us over asyncpg")
        report(targets, idle_kb(ours, url(ours), IDLE))


def prepare(postgres: EmbeddedPostgres) -> None:
    command = [find("pgbench", "postgresql-contrib"), "-h", "127.0.0.1", "-p", str(postgres.port), "-U", "postgres", "-i", "-q", "-s", "5"]
    environment = {**os.environ, "PGPASSWORD": postgres.password}
    subprocess.run([*command, "postgres"], env=environment, check=True, capture_output=True, timeout=120)
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE wide AS SELECT g, repeat('x', 90) AS x FROM generate_series(1, {COPY_ROWS}) g")


def report(targets: list[Target], idle: float) -> None:
    direct, bouncer, ours = targets
    versus = ratios(ours.tps, bouncer.tps)
    print(
        json.dumps(
            {
                "bench": "relay",
                "ratio_vs_pgbouncer": {"geomean": round(geometric_mean(list(versus.values())), 3), **versus},
                "geomean_with_first_second": round(geometric_mean(list(ratios(ours.whole, bouncer.whole).values())), 3),
                "ratio_vs_direct": ratios(ours.tps, direct.tps),
                "cpu_ratio_vs_pgbouncer": round(geometric_mean(list(ratios(ours.cpu, bouncer.cpu).values())), 3),
                "copy_ratio_vs_pgbouncer": ratios(ours.rates, bouncer.rates)["copy_mb_s"],
                "rates_vs_pgbouncer": ratios(ours.rates, bouncer.rates),
                "latency_us": {target.name: {key: percentiles(taken) for key, taken in target.latencies.items()} for target in targets},
                "idle_kb_per_connection": round(idle, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
