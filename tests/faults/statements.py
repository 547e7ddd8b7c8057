"""What sessions run while processes are killed, and whether what came of it may be."""

from __future__ import annotations

import itertools
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.faults.cluster import Cluster

__all__ = ["KINDS", "Outcome", "Statement", "judge"]

Rows = list[tuple[Any, ...]]

CLEAN = {
    "08000": "connection_exception",
    "08003": "connection_does_not_exist",
    "08006": "connection_failure",
    "57P01": "admin_shutdown",
    "57P02": "crash_shutdown",
    "57P03": "cannot_connect_now",
    "58000": "system_error",
}
_numbers = itertools.count(1)


@dataclass
class Outcome:
    """Of one statement: its rows, or the error and whether the connection was lost by it."""

    rows: Rows | None = None
    error: psycopg.Error | None = None
    lost: bool = False

    def __str__(self) -> str:
        if self.error is None:
            return "complete"
        return f"{self.error.sqlstate or 'closed'} {str(self.error).splitlines()[0]}" + (" (connection lost)" if self.lost else "")


class Statement(ABC):
    """`text` is what is run.  A statement that leaves something has a name of its own for that."""

    seconds: float
    """For how long it runs if nobody is killed, more or less."""

    def __init__(self) -> None:
        self.number = next(_numbers)

    @property
    @abstractmethod
    def text(self) -> str: ...

    @abstractmethod
    def is_right(self, rows: Rows, cluster: Cluster) -> bool:
        """Whether an answer is the right one, and has left behind what it should."""

    def left(self, cluster: Cluster) -> str | None:
        """After an error: what is there that should not be.  Where the connection was lost, it may have been committed, but whole."""
        return None


class Predict(Statement):
    seconds = 1.5
    times = 60
    cache = False

    @property
    def text(self) -> str:
        query = f"SELECT id, image FROM pictures, generate_series(1, {self.times}) g ORDER BY g, id"
        return f"PREDICT USING colours OPTIONS (cache={self.cache}) AS {query}"

    def is_right(self, rows: Rows, cluster: Cluster) -> bool:
        return [(row[0], row[-1]) for row in rows] == cluster.labels * self.times


class Interactive(Predict):
    seconds = 0.1
    times = 1
    cache = True


class Table(Statement):
    seconds = 1.0
    times = 20

    @property
    def name(self) -> str:
        return f"table_{self.number}"

    @property
    def text(self) -> str:
        query = f"SELECT id, image FROM pictures, generate_series(1, {self.times})"
        return f"CREATE TABLE {self.name} AS PREDICT USING colours OPTIONS (cache=false) AS {query}"

    def is_right(self, rows: Rows, cluster: Cluster) -> bool:
        return self.left(cluster) is None and self._is_there(cluster)

    def left(self, cluster: Cluster) -> str | None:
        if not self._is_there(cluster):
            return None
        found = cluster.ask(f"SELECT id, predicted, count(*) FROM {self.name} GROUP BY 1, 2 ORDER BY 1")
        return None if found == [(*label, self.times) for label in cluster.labels] else f"{self.name} is not whole"

    def _is_there(self, cluster: Cluster) -> bool:
        return cluster.ask(f"SELECT to_regclass('{self.name}') IS NOT NULL") == [(True,)]


class Build(Statement):
    seconds = 3.0
    digests: set[str] = set()
    """Of the weights of all of them: they are trained with the same seed."""

    @property
    def name(self) -> str:
        return f"model_{self.number}"

    @property
    def text(self) -> str:
        return (
            f"BUILD MODEL {self.name} USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32, epochs=4, batch_size=8, seed=7) "
            "AS SELECT image, label FROM pictures"
        )

    def is_right(self, rows: Rows, cluster: Cluster) -> bool:
        return self.left(cluster) is None and self._digest(cluster) is not None

    def left(self, cluster: Cluster) -> str | None:
        digest = self._digest(cluster)
        if digest is None:
            return None
        self.digests.add(digest)
        return None if len(self.digests) == 1 else f"{self.name} has other weights"

    def _digest(self, cluster: Cluster) -> str | None:
        found = cluster.ask(f"SELECT artifact FROM thanosql.model_versions WHERE name = '{self.name}'")
        if not found:
            return None
        return str(json.loads((cluster.artifacts / "manifests" / f"{found[0][0]}.json").read_text())["weights_sha256"])


KINDS: dict[str, type[Statement]] = {"predict": Predict, "interactive": Interactive, "table": Table, "build": Build}


def judge(statement: Statement, outcome: Outcome, cluster: Cluster, *, may_fail: bool) -> str | None:
    """What is wrong with this outcome, if anything is."""
    if outcome.rows is not None:
        return None if statement.is_right(outcome.rows, cluster) else "the answer is not the right one"
    error = outcome.error
    assert error is not None, "there is one or the other"
    if not may_fail:
        return "it should have been answered"
    if error.sqlstate is None and not outcome.lost:
        return "an error without a code, and the connection is there"
    if error.sqlstate is not None and error.sqlstate not in CLEAN:
        return "an error that says nothing of what happened"
    wrong = statement.left(cluster)
    if wrong is None and not outcome.lost and isinstance(statement, Table | Build) and _left_anything(statement, cluster):
        wrong = "it says that it has failed, and has not"
    return wrong


def _left_anything(statement: Table | Build, cluster: Cluster) -> bool:
    return statement._is_there(cluster) if isinstance(statement, Table) else statement._digest(cluster) is not None
