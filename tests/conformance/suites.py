"""PostgreSQL's regression and isolation suites: how each is run against a port, and what its runner says of each test."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.distribution import Distribution
from tests.conformance.score import Score
from tests.conformance.servers import HOST, OWNER, owned_folder
from thanoproxy.embedded.account import Account

__all__ = ["SUITES", "Suite", "run_bounded"]

SECONDS = 600

# `test tablespace ... ok 303 ms`, or within a parallel group `     boolean ... FAILED 46 ms`.
RESULT = re.compile(r"^(?:test +| {3,})(\S+) +\.\.\. (ok|FAILED|failed \(ignored\))", re.MULTILINE)


@dataclass(frozen=True)
class Suite:
    """One of them; `runner` lies in the folder of the suite's name."""

    name: str
    runner: str
    schedule: str

    def run(self, made: Distribution, account: Account, port: int, folder: Path) -> Score:
        """Run it against the server on `port`; outputs and differences are left in `folder`."""
        shutil.rmtree(folder, ignore_errors=True)
        owned_folder(folder, account)
        owned_folder(folder / "testtablespace", account)
        log = folder / "log"
        seconds = run_bounded(self.command(made, port, folder), made.environment(), log, account, SECONDS)
        results = RESULT.findall(log.read_text(encoding="utf-8", errors="replace"))
        return Score({name: said.removeprefix("failed (").rstrip(")") for name, said in results}, seconds, folder)

    def command(self, made: Distribution, port: int, folder: Path) -> list[str]:
        tests = made.tests / self.name
        return [
            str(made.runners / self.name / self.runner),
            f"--host={HOST}",
            f"--port={port}",
            f"--user={OWNER}",
            f"--bindir={made.binaries}",
            f"--dlpath={made.libraries}",
            f"--inputdir={tests}",
            f"--outputdir={folder}",
            f"--schedule={tests / self.schedule}",
            "--max-concurrent-tests=20",
        ]


SUITES = (Suite("regress", "pg_regress", "parallel_schedule"), Suite("isolation", "pg_isolation_regress", "isolation_schedule"))


def run_bounded(command: list[str], environment: Mapping[str, str], log: Path, account: Account, seconds: float) -> float | None:
    """Run `command` in the folder of `log`, which gets what it prints, and return its seconds; None if it had to be killed.

    A suite that hangs is killed with everything that it has started.
    """
    before = os.times().elapsed
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=log.parent,
            start_new_session=True,
            **account.popen_arguments(),
        )
        try:
            process.wait(seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return None
    return os.times().elapsed - before
