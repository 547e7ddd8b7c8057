"""BI tools: a PREDICT inside what each makes of its user's query (`wrappings.py`), through the driver that it uses.

What must come out is what the same statements give over `bi_stored`, a plain table with the same predictions.  The order of rows is not
looked at here: most of these statements leave it open.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, LiteralString, cast

import asyncpg
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.clients.conftest import run_client
from tests.clients.java import compiled, run_java
from tests.clients.pictures import PREDICT
from tests.clients.test_odbc import DRIVER
from tests.clients.wrappings import (
    DBEAVER,
    GRAFANA,
    METABASE,
    POWER_BI,
    SUPERSET,
    SUPERSET_PREDICT,
    SUPERSET_PROBES,
    TABLEAU,
    TABLEAU_INTO,
    Wrappings,
)

STORED = "SELECT * FROM bi_stored ORDER BY id"
LEFT_BEHIND = "SELECT count(*) FROM pg_class WHERE relname LIKE 'thanoproxy%' AND relnamespace = pg_my_temp_schema()"
Program = Callable[[Sequence[str]], list[Any]]
"""Runs statements on one connection; what it tells of each is the same for the same columns and rows."""


@pytest.fixture(scope="module")
def url(url: str) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS bi_stored AS PREDICT USING colours AS SELECT id, image, label FROM pictures")
    return url


def told_alike(program: Program, wrappings: Wrappings, predict: str = PREDICT) -> None:
    """Assert that `predict` inside `wrappings` and the table with its predictions tell the same."""
    templates = [(name, statement) for name, statements in wrappings.items() for statement in statements]
    ours = program([*(statement.replace("{q}", predict) for _, statement in templates), LEFT_BEHIND])
    plain = program([*(statement.replace("{q}", STORED) for _, statement in templates), LEFT_BEHIND])
    assert ours.pop() == plain.pop()
    for (name, statement), told, expected in zip(templates, ours, plain, strict=True):
        assert "failed" not in str(told), f"{name}: {statement}"
        if not statement.startswith("EXPLAIN"):
            assert told == expected, f"{name}: {statement}"


class TestSuperset:
    """SQLAlchemy and psycopg2, as Superset uses them: the connection's own cursor, and one transaction for each query."""

    @pytest.fixture
    def program(self, url: str) -> Iterator[Program]:
        sqlalchemy = pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")
        pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
        engine = sqlalchemy.create_engine(sqlalchemy.make_url(url).set(drivername="postgresql+psycopg2"), poolclass=sqlalchemy.NullPool)

        def run(statements: Sequence[str]) -> list[Any]:
            connection = engine.raw_connection()
            try:
                return [told(connection, statement) for statement in statements]
            finally:
                connection.close()

        def told(connection: Any, statement: str) -> Any:
            cursor = connection.cursor()
            cursor.execute(statement)
            columns = [(column.name, column.type_code) for column in cursor.description or ()]
            rows = sorted(cursor.fetchall()) if columns else None
            connection.commit()
            return columns, rows, cursor.rowcount

        yield run
        engine.dispose()

    def test_wrappings(self, program: Program) -> None:
        told_alike(program, SUPERSET, SUPERSET_PREDICT)

    def test_behind_its_probes(self, program: Program) -> None:
        told_alike(program, {"probes": tuple(p for p in SUPERSET_PROBES if "pid" not in p), **SUPERSET}, SUPERSET_PREDICT)

    def test_a_bare_predict(self, program: Program) -> None:
        """The row limit becomes part of the query of the PREDICT."""
        bare, plain = program(["PREDICT USING colours AS\nSELECT\n  *\nFROM pictures\nLIMIT 1001", "TABLE bi_stored"])
        assert bare == plain


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(Path(__file__).with_name("Wrapped.java"), tmp_path_factory.mktemp("classes"))


JDBC: dict[str, tuple[Wrappings, tuple[str, str, str, str]]] = {
    # Tool: its wrappings, and read only, autocommit, fetch size, largest number of rows.
    # set-default-connection-options! and statement in metabase/driver/sql_jdbc/execute.clj
    "Metabase": (METABASE, ("true", "true", "500", "2000")),
    "Metabase in a read-only transaction": (METABASE, ("true", "false", "5", "2000")),
    "Tableau": (TABLEAU, ("false", "true", "0", "0")),
    "Tableau in a transaction": (TABLEAU, ("false", "false", "10", "0")),
    "Tableau, SELECT INTO": (TABLEAU_INTO, ("false", "true", "0", "0")),
    "DBeaver": (DBEAVER, ("false", "true", "200", "200")),
    "DBeaver, manual commit": (DBEAVER, ("false", "false", "7", "20")),
}


@pytest.mark.parametrize("tool", JDBC)
def test_jdbc(classes: Path, url: str, tool: str) -> None:
    wrappings, settings = JDBC[tool]

    def program(statements: Sequence[str]) -> list[Any]:
        return run_java(classes, "Wrapped", url, *settings, stdin="\0".join(statements)).splitlines()

    told_alike(program, wrappings)


ODBC = {
    "Tableau": (TABLEAU, "UseDeclareFetch=1;Fetch=2048"),
    "Tableau, small fetches": (TABLEAU, "UseDeclareFetch=1;Fetch=5"),
    "Power BI": (POWER_BI, ""),
    "Power BI, read only": (POWER_BI, "ReadOnly=1"),
}
"""Tool: its wrappings, and settings of psqlODBC."""


@pytest.mark.parametrize("tool", ODBC)
def test_odbc(url: str, tool: str) -> None:
    wrappings, settings = ODBC[tool]
    if importlib.util.find_spec("pyodbc") is None:
        pytest.skip("pyodbc is not installed")
    parts = conninfo_to_dict(url)
    address = f"Driver={{{DRIVER}}};Server={parts['host']};Port={parts['port']};Database={parts['dbname']}"
    connection = f"{address};Uid={parts['user']};Pwd={parts['password']};{settings}"

    def program(statements: Sequence[str]) -> list[Any]:
        command = [sys.executable, str(Path(__file__).with_name("odbc_wrapped.py")), connection]
        done = run_client(command, stdin=json.dumps(list(statements)))
        if "Can't open lib" in done.stderr:
            pytest.skip("psqlODBC is not installed (Debian: odbc-postgresql, unixodbc)")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert isinstance(told, list)
        return told

    told_alike(program, wrappings)


@pytest.mark.parametrize("binary", [False, True], ids=["simple", "extended and binary"])
@pytest.mark.parametrize("wrappings", [POWER_BI, GRAFANA], ids=["Power BI", "Grafana"])
def test_other_drivers(url: str, wrappings: Wrappings, binary: bool) -> None:
    """Messages as Npgsql's (Parse, Bind, Describe, Execute, Sync; binary) and as lib/pq's without parameters (Query)."""

    def program(statements: Sequence[str]) -> list[Any]:
        with psycopg.connect(url, autocommit=True) as connection:
            return [told(connection, statement) for statement in statements]

    def told(connection: psycopg.Connection[tuple[Any, ...]], statement: str) -> Any:
        cursor = connection.execute(cast(LiteralString, statement), binary=binary)
        columns = [(column.name, column.type_code) for column in cursor.description or ()]
        return columns, sorted(cursor.fetchall()) if columns else None, cursor.statusmessage

    told_alike(program, wrappings)


async def test_prepared_and_described_first(url: str) -> None:
    """As pgx does for Grafana: a named statement is described, and runs more than once."""
    connection = await asyncpg.connect(url)
    try:
        for statements in GRAFANA.values():
            (template,) = statements
            ours, plain = [await connection.prepare(template.replace("{q}", query)) for query in (PREDICT, STORED)]
            assert ours.get_attributes() == plain.get_attributes()
            for _ in range(2):
                assert sorted(map(tuple, await ours.fetch())) == sorted(map(tuple, await plain.fetch()))
    finally:
        await connection.close()
