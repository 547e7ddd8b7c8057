"""Cells against a real PostgreSQL: what they show, what they give back, and that the text arrives as it was written."""

from __future__ import annotations

import io
import time
from decimal import Decimal

import numpy as np
import pandas as pd

from tests.notebook.conftest import Notebook


def test_a_cell_shows_its_result(notebook: Notebook) -> None:
    cell = notebook.ok("%%thanosql\nSELECT 1 AS one, 'zwei' AS two")
    assert isinstance(cell.value, pd.DataFrame)
    assert cell.value.to_dict("records") == [{"one": 1, "two": "zwei"}]
    assert "zwei" in cell.printed


def test_a_line_gives_a_frame(notebook: Notebook) -> None:
    cell = notebook.ok("df = %thanosql SELECT g FROM generate_series(1, 3) g")
    assert cell.printed == ""
    assert list(notebook["df"]["g"]) == [1, 2, 3]


def test_a_line_may_be_continued(notebook: Notebook) -> None:
    notebook.ok("df = %thanosql SELECT 1 \\\n  + 1 AS s")
    assert notebook["df"]["s"][0] == 2


def test_a_statement_without_rows_prints_its_tag(notebook: Notebook) -> None:
    cell = notebook.ok("%%thanosql\nCREATE TABLE t (a int)")
    assert cell.printed == "CREATE TABLE\n"
    assert cell.value is None


def test_several_statements_show_the_last_result(notebook: Notebook) -> None:
    cell = notebook.ok("%%thanosql\nCREATE TABLE t (a int);\nINSERT INTO t VALUES (1), (2);\nSELECT 0;\nSELECT a FROM t;\nANALYZE t;\n")
    assert cell.printed.splitlines()[:4] == ["CREATE TABLE", "INSERT 0 2", "SELECT 1", "ANALYZE"]
    assert list(cell.value["a"]) == [1, 2]


def test_several_statements_are_one_transaction(notebook: Notebook) -> None:
    notebook.run("%%thanosql\nCREATE TABLE t (a int);\nSELECT 1/0")
    cell = notebook.ok("%%thanosql\nSELECT to_regclass('t') IS NULL AS rolled_back")
    assert cell.value["rolled_back"][0]


def test_semicolons_and_comments(notebook: Notebook) -> None:
    assert notebook.ok("%%thanosql\n;;").printed == ""
    assert notebook.ok("%%thanosql\n-- nothing here").printed == ""
    assert notebook.ok("%thanosql SELECT ';' AS s;").value["s"][0] == ";"


def test_neither_python_nor_ipython_touches_the_text(notebook: Notebook) -> None:
    notebook.ok("x = 'expanded'")
    cell = notebook.ok("%thanosql SELECT '%d {x} $x' AS raw, 7 % 4 AS rest, '{1,2}'::int[] AS list, $$q$$ AS quoted")
    assert cell.value.to_dict("records") == [{"raw": "%d {x} $x", "rest": 3, "list": [1, 2], "quoted": "q"}]


def test_psql_is_the_same_connection(notebook: Notebook) -> None:
    notebook.ok("%%thanosql\nCREATE TEMP TABLE t AS SELECT 5 AS a")
    assert notebook.ok("%psql SELECT a FROM t").value["a"][0] == 5
    assert notebook.ok("%%psql\nSELECT a FROM t").value["a"][0] == 5


def test_sql_may_begin_on_the_line_of_the_magic(notebook: Notebook) -> None:
    assert notebook.ok("%%thanosql SELECT 1\n  + 1 AS s").value["s"][0] == 2


def test_transactions_last_over_cells(notebook: Notebook) -> None:
    notebook.ok("%%thanosql\nBEGIN; CREATE TABLE t (a int)")
    assert notebook.ok("%thanosql ROLLBACK").printed == "ROLLBACK\n"
    assert notebook.ok("%thanosql SELECT to_regclass('t') AS t").value["t"][0] is None


def test_a_statement_run_often_is_still_sent_as_it_is(notebook: Notebook) -> None:
    # psycopg prepares what it sees for the sixth time, unless told not to; two statements cannot be prepared.
    for _ in range(8):
        assert notebook.ok("%thanosql SELECT 1; SELECT 2 AS two").value["two"][0] == 2


def test_rows_are_numbered_once(notebook: Notebook) -> None:
    notebook.ok("df = %thanosql SELECT g FROM generate_series(1, 25000) g")
    assert notebook["df"].index.is_unique
    assert list(notebook["df"].index[[0, 10_000, 24_999]]) == [0, 10_000, 24_999]


def test_columns_of_one_name_survive(notebook: Notebook) -> None:
    value = notebook.ok("%thanosql SELECT 1 AS a, 'x' AS a, 2.5::float8 AS b, 4 AS a").value
    assert list(value.columns) == ["a", "a", "b", "a"]
    assert value.iloc[0].tolist() == [1, "x", 2.5, 4]


def test_no_columns_and_no_rows(notebook: Notebook) -> None:
    assert notebook.ok("%thanosql SELECT FROM generate_series(1, 3)").value.shape == (3, 0)
    nothing = notebook.ok("%thanosql SELECT 1 AS a, 'x' AS b WHERE false").value
    assert nothing.shape == (0, 2)
    assert list(nothing.columns) == ["a", "b"]


def test_types(notebook: Notebook) -> None:
    value = notebook.ok(
        "%%thanosql\nSELECT 1::int2 AS small, 9007199254740993 AS big, 1.10::numeric AS exact, '007' AS text, true AS yes,"
        " 1.5::float4 AS real,"
        " ARRAY['a', NULL] AS list, '\\x00ff'::bytea AS bytes, '2024-02-29 12:00'::timestamp AS at, jsonb '{\"k\": [1]}' AS json"
    ).value
    first = value.iloc[0]
    assert first["big"] == 9007199254740993
    assert first["exact"] == Decimal("1.10")
    assert first["text"] == "007"
    assert first["list"] == ["a", None]
    assert first["bytes"] == b"\x00\xff"
    assert first["at"] == pd.Timestamp("2024-02-29 12:00")
    assert first["json"] == {"k": [1]}
    assert (value["small"].dtype, value["yes"].dtype, value["real"].dtype) == (np.int64, np.bool_, np.float64)


def test_nulls_do_not_turn_integers_into_floats(notebook: Notebook) -> None:
    value = notebook.ok("%thanosql SELECT * FROM (VALUES (9007199254740993, true), (NULL, NULL)) v (n, b)").value
    assert value["n"][0] == 9007199254740993
    assert value["n"][1] is pd.NA
    assert value["b"][1] is pd.NA


def test_values_that_python_lacks_are_text(notebook: Notebook) -> None:
    value = notebook.ok(
        "%%thanosql\nSELECT 'infinity'::timestamp AS never, '0044-03-15 BC'::date AS ides, '24:00'::time AS midnight,"
        " 3 AS n, NULL::date AS none"
    ).value
    assert value.iloc[0].tolist()[:4] == ["infinity", "0044-03-15 BC", "24:00:00", 3]
    assert value["none"][0] is None


class Clocked(io.StringIO):
    """Remembers when each piece was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[float, str]] = []

    def write(self, text: str) -> int:
        self.written.append((time.monotonic(), text))
        return super().write(text)


def test_notices_are_printed_as_they_come(notebook: Notebook) -> None:
    clock = Clocked()
    cell = notebook.run(
        "%%thanosql\nDO $$BEGIN RAISE NOTICE 'first' USING HINT = 'wait'; PERFORM pg_sleep(1); RAISE WARNING 'second'; END$$", clock
    )
    assert cell.printed == "NOTICE:  first\nHINT:  wait\nWARNING:  second\nDO\n"
    times = {text: at for at, text in clock.written}
    assert times["WARNING:  second"] - times["NOTICE:  first"] > 0.8
