"""The lines for superset_config.py in docs/bi-tools.md, without which Superset takes no PREDICT for SQL.

They are run here with sqlglot alone, in the ways in which Superset uses it (superset/sql/parse.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sqlglot = pytest.importorskip("sqlglot", reason="sqlglot is not installed")

from sqlglot import exp  # noqa: E402
from sqlglot.dialects import Dialect, Dialects  # noqa: E402
from sqlglot.optimizer.scope import traverse_scope  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "bi-tools.md"


@pytest.fixture(scope="module", autouse=True)
def dialect() -> Iterator[None]:
    match = re.search(r"^```python\n(from sqlglot .*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert match is not None
    own = type(Dialect.get_or_raise("postgres"))
    exec(match[1], {"__name__": "superset_config"})
    yield
    Dialect.classes["postgres"] = own


def parsed(statement: str) -> Any:
    (found,) = sqlglot.parse(statement, dialect=Dialects.POSTGRES)
    return found


@pytest.mark.parametrize(
    "statement",
    [
        "PREDICT USING pets AS SELECT * FROM photos",
        "predict using \"Pets\"@2 options (image_col='AS', batch_size=8) as SELECT * FROM photos",
        "PREDICT USING pets AS (SELECT * FROM photos) LIMIT 5",
        "PREDICT USING pets AS SELECT a FROM photos UNION SELECT b FROM others ORDER BY 1",
        "PREDICT USING pets AS WITH few AS (SELECT * FROM photos) SELECT * FROM few",
        "PREDICT USING pets AS PREDICT USING kinds OPTIONS (result_col='kind') AS SELECT * FROM photos",
        "SELECT predicted, COUNT(*) FROM (PREDICT USING pets AS SELECT * FROM photos) AS t GROUP BY 1",
        "WITH p AS (PREDICT USING pets AS SELECT * FROM photos) SELECT * FROM p",
        "SELECT * FROM a JOIN (PREDICT USING pets AS SELECT * FROM photos) AS p USING (id)",
        "SELECT * FROM a WHERE id IN (SELECT id FROM (PREDICT USING pets AS SELECT * FROM photos) AS p)",
        "CREATE TABLE made AS PREDICT USING pets AS SELECT * FROM photos",
        "SELECT * FROM a JOIN predict USING (id)",
        "SELECT predict FROM predict",
    ],
)
def test_is_written_as_it_was_read(statement: str) -> None:
    assert parsed(statement).sql(Dialects.POSTGRES) == statement


@pytest.mark.parametrize("statement", ["PREDICT USING pets", "PREDICT USING pets AS", "PREDICT USING pets AS DELETE FROM photos"])
def test_what_is_no_query_is_an_error(statement: str) -> None:
    with pytest.raises(sqlglot.errors.ParseError):
        parsed(statement)


def test_tables_are_seen() -> None:
    """Superset looks there whether its user may read them."""
    scopes = traverse_scope(parsed("SELECT * FROM (PREDICT USING pets AS SELECT * FROM photos JOIN owners USING (id)) t"))
    assert {table.name for scope in scopes for table in scope.sources.values() if isinstance(table, exp.Table)} == {"photos", "owners"}


def test_a_row_limit_goes_to_the_query() -> None:
    statement = parsed("PREDICT USING pets AS SELECT * FROM photos LIMIT 5000")
    statement.args["limit"] = exp.Limit(expression=exp.Literal(this="1001", is_string=False))
    written = Dialect.get_or_raise(Dialects.POSTGRES).generate(statement, copy=True, pretty=True)
    assert written == "PREDICT USING pets AS\nSELECT\n  *\nFROM photos\nLIMIT 1001"


@pytest.mark.parametrize("statement", ["CREATE TABLE made AS PREDICT USING pets AS SELECT * FROM photos", "INSERT INTO made SELECT 1"])
def test_what_changes_data_is_seen(statement: str) -> None:
    assert parsed(statement).find(exp.Create, exp.Insert) is not None


def test_it_takes_the_place_of_sqlglots_own() -> None:
    """Superset names a dialect by this enumeration, and asks for this one in its rules for `DO` and `EXPLAIN ANALYZE`."""
    assert type(Dialect.get_or_raise(Dialects.POSTGRES)).__module__ == "superset_config"
