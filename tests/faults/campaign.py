"""Kill after kill, drawn from a seed: who, and when, and what the sessions are at."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.faults.cluster import Cluster, until
from tests.faults.statements import KINDS, Interactive, Outcome, Statement, judge
from thanoproxy.catalog.artifacts import open_store
from thanoproxy.workers.scratch import remove_abandoned

__all__ = ["Campaign"]

SESSIONS = 3
PATIENCE = 120.0
"""Seconds for any statement to end in, whatever was killed."""

SPARED = {"worker": True, "front": False, "proxy": False, "backend": False, "client": True}
"""Whether everybody else's statement has to succeed when one of these is killed."""

CLIENT = """
import sys, psycopg
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    print("connected", flush=True)
    connection.execute(sys.argv[2])
"""


@dataclass
class Session:
    """One client's statement, run in a thread of its own."""

    statement: Statement
    connection: psycopg.Connection[Any]
    outcome: Outcome = field(default_factory=Outcome)

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        try:
            cursor = self.connection.execute(self.statement.text)  # type: ignore[call-overload]
            self.outcome.rows = cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            self.outcome.error, self.outcome.lost = error, self.connection.closed


class Campaign:
    """`problems` has what should not have happened, and how to see it again; `killed` and `seen` count."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster = cluster
        self.seed = seed
        self.problems: list[str] = []
        self.killed: Counter[str] = Counter()
        self.seen: Counter[tuple[str, str, str]] = Counter()
        self.recovery: list[float] = []
        self._draw = random.Random(seed)
        self._round = 0

    @property
    def targets(self) -> list[str]:
        return [kind for kind in SPARED if kind != "front" or self.cluster.fronts > 1]

    def round(self, target: str | None = None) -> None:
        """One kill."""
        self._round += 1
        target = target or self._draw.choice(self.targets)
        statements = [KINDS[self._draw.choice(list(KINDS))]() for _ in range(SESSIONS)]
        moment = self._draw.uniform(0, max(statement.seconds for statement in statements))
        sessions = [Session(one, psycopg.connect(self.cluster.url, autocommit=True)) for one in statements]
        victim = self._client() if target == "client" else None
        threads = [session.start() for session in sessions]
        time.sleep(moment)
        self._kill(target, sessions, victim)
        killed_at = time.monotonic()
        for thread in threads:
            thread.join(PATIENCE)
        for session, thread in zip(sessions, threads, strict=True):
            self._judge(target, moment, session, hangs=thread.is_alive())
            session.connection.close()
        self._goes_on(f"{target} at {moment:.2f} s")
        self.recovery.append(time.monotonic() - killed_at)

    def _client(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CLIENT, self.cluster.url, KINDS[self._draw.choice(["predict", "build", "table"])]().text]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None, "a pipe"
        assert process.stdout.readline() == "connected\n"
        return process

    def _kill(self, target: str, sessions: list[Session], victim: subprocess.Popen[str] | None) -> None:
        if target == "client":
            assert victim is not None, "started"
            victim.kill()
            victim.communicate()
            pids = []
        elif target == "backend":
            pids = [self._draw.choice(sessions).connection.info.backend_pid]
        elif target == "proxy":
            pids = [self.cluster.proxy]
        else:
            pids = self.cluster.processes(f"{target}s")
        if pids:  # or it is being replaced already
            os.kill(self._draw.choice(pids), signal.SIGKILL)
        self.killed[target] += 1

    def _judge(self, target: str, moment: float, session: Session, *, hangs: bool) -> None:
        statement, outcome = session.statement, session.outcome
        kind = type(statement).__name__
        if hangs:
            wrong: str | None = "it hangs"
        else:
            wrong = judge(statement, outcome, self.cluster, may_fail=not SPARED[target])
            self.seen[target, kind, "complete" if outcome.error is None else outcome.error.sqlstate or "closed"] += 1
        if wrong is not None:
            self._problem(f"{target} killed at {moment:.2f} s of {kind}: {wrong}: {'' if hangs else outcome}")

    def _goes_on(self, after: str) -> None:
        """The next statement works, on a new connection."""
        next_one, end = Interactive(), time.monotonic() + PATIENCE
        while True:
            self.cluster.keep_running()  # a process that was killed a moment ago may still be there
            try:
                with psycopg.connect(self.cluster.url, autocommit=True, connect_timeout=30) as connection:
                    rows = connection.execute(next_one.text).fetchall()  # type: ignore[arg-type]
                break
            except psycopg.OperationalError as error:
                if time.monotonic() > end:
                    self._problem(f"after {after} the next statement does not work: {error}")
                    return
                time.sleep(0.1)
        if not next_one.is_right(rows, self.cluster):
            self._problem(f"after {after} the next statement has a wrong answer")

    def check_what_is_left(self) -> None:
        """Processes, files and sessions that nobody has any more."""
        cluster = self.cluster
        until(lambda: len(cluster.processes("workers")) == 1, "one worker")
        expected = {cluster.proxy, *cluster.processes("workers"), *cluster.processes("fronts")}
        until(lambda: cluster.everything() <= expected, "no orphans")
        until(lambda: cluster.ask("SELECT count(*) FROM thanosql.jobs WHERE finished_at IS NULL") == [(0,)], "no job is left running")
        until(lambda: cluster.ask(OPEN) == [(0,)], "no session of PostgreSQL is left at work")
        remove_abandoned(str(cluster.temporary), young=0)  # as the next proxy would
        until(lambda: not any("spool" in name for _, _, names in os.walk(cluster.temporary) for name in names), "no rows are left")
        store = open_store(cluster.artifacts.as_uri())
        for identity, _ in store.identities():
            store.weights(identity, store.manifest(identity))

    def check_after_the_end(self) -> None:
        """The proxy is stopped: nothing at all, but what killed ones have left, which the next one would remove."""
        self.cluster.close()
        until(lambda: not self.cluster.everything(), "no processes")
        remove_abandoned(str(self.cluster.temporary), young=0)
        left = [path.name for path in self.cluster.temporary.glob("thanoproxy-*")]
        if left:
            self._problem(f"files are left: {left}")

    def _problem(self, text: str) -> None:
        self.problems.append(f"seed {self.seed}, kill {self._round}: {text}")


OPEN = """
SELECT count(*) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND state <> 'idle' AND pid <> pg_backend_pid()
"""
