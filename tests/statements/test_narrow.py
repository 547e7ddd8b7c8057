"""How little of a hole is predicted: what is told from the statement around it, and what would be too bold."""

from __future__ import annotations

from collections.abc import Sequence

import pglast
import pytest

from thanoproxy.statements import recognise
from thanoproxy.statements.narrow import EVERYTHING, Need, _written, needs
from thanoproxy.statements.render import described
from thanoproxy.statements.shapes import Decorate, Nested

P = "(PREDICT USING m AS SELECT id, a, image FROM x)"
COLUMNS = ("id", "a", "image")


def told(pattern: str, columns: tuple[str, ...] = COLUMNS) -> tuple[bool, str]:
    """Whether the first hole's predictions are needed, and what narrows its query."""
    need = asked(pattern)[0]
    return need.predictions, need.clauses(columns).strip()


def asked(pattern: str, parameters: Sequence[int | None] = ()) -> list[Need]:
    parts = recognise(pattern.format(p=P))
    assert parts is not None
    statement = parts[0].shape
    assert isinstance(statement, Nested)
    added = [hole.shape.names if isinstance(hole.shape, Decorate) else () for hole in statement.holes]
    return needs(described(statement).text, added, parameters)


@pytest.mark.parametrize(("values", "limit"), [([10, 2], 12), ([0, 0], 0), ([None, 2], None), ([10, -1], None), ([10], None), ([], None)])
def test_a_limit_may_be_a_parameter(values: list[int | None], limit: int | None) -> None:
    (need,) = asked("SELECT * FROM {p} t LIMIT $1 OFFSET $2", values)
    assert need.limit == limit


UNREAD = [
    "SELECT count(*) FROM {p} t",
    "SELECT id FROM {p} t",
    "SELECT t.id, max(a) FROM {p} t GROUP BY t.id ORDER BY 1",
    "SELECT 1 FROM {p} t",
    "SELECT EXISTS (SELECT FROM {p} t)",
    "SELECT o.id FROM (SELECT id FROM {p} t) o",
    "SELECT t.id FROM {p} t JOIN k USING (id)",
    "INSERT INTO k SELECT id FROM {p} t",
    "WITH c AS (SELECT id FROM {p} t) SELECT id FROM c",
    "SELECT id FROM {p} t UNION SELECT 1",
]
READ = [
    "SELECT * FROM {p} t",
    "SELECT t.* FROM {p} t",
    "SELECT predicted FROM {p} t",
    "SELECT id FROM {p} t WHERE t.predicted = 'x'",
    "SELECT id FROM {p} t ORDER BY predicted",
    "SELECT id FROM {p} t GROUP BY id, predicted",
    "SELECT t FROM {p} t",
    "SELECT (t).predicted FROM {p} t",
    "SELECT predicted(t) FROM {p} t",
    "SELECT to_json(t.*) FROM {p} t",
    "SELECT to_json(j) FROM (k JOIN {p} t USING (id)) AS j",
    "SELECT k.id FROM k NATURAL JOIN {p} t",
    "SELECT k.id FROM k JOIN {p} t USING (predicted)",
    "SELECT a FROM {p} t (a, b, c, d)",
    "SELECT o.predicted FROM (SELECT * FROM {p} t) o",
    "WITH c AS (SELECT * FROM {p} t) SELECT id FROM c",
    "WITH c AS {p} SELECT id FROM c",
    "SELECT id FROM ({p} UNION SELECT 1, 2, 3, 4) t",
    "SELECT 1 WHERE 1 IN {p}",
    "CREATE TABLE y AS {p}",
    "INSERT INTO y {p}",
    "COPY {p} TO STDOUT",
    "MERGE INTO k USING {p} s ON s.id = k.id WHEN NOT MATCHED THEN INSERT VALUES (s.predicted)",
    # Too careful, and never wrong: another table's column of that name.
    "SELECT k.predicted FROM {p} t JOIN k USING (id)",
]


@pytest.mark.parametrize(("pattern", "read"), [(p, False) for p in UNREAD] + [(p, True) for p in READ])
def test_who_reads_the_prediction(pattern: str, read: bool) -> None:
    assert asked(pattern)[0].predictions is read


WHERE = [
    ("id < 10", "WHERE (id < 10)"),
    ("t.id = ANY($1) AND predicted = 'x' AND a IS NOT NULL", "WHERE (t.id = ANY($1)) AND (a IS NOT NULL)"),
    ("(id BETWEEN 1 AND 5 OR a LIKE 'x%%')", "WHERE (id BETWEEN 1 AND 5 OR a LIKE 'x%%')"),
    ("NOT (id IN (1, 2)) AND a::int = 3", "WHERE (NOT id IN (1, 2)) AND (CAST(a AS integer) = 3)"),
    ("1 = 0", "WHERE (1 = 0)"),
    ("false", "WHERE (FALSE)"),
    ("coalesce(a, 'x') <> 'y'", "WHERE (COALESCE(a, 'x') <> 'y')"),
    ("predicted = 'x' OR id = 1", ""),
    ("random() < 0.5", ""),
    ("lower(a) = 'x'", ""),
    ("id IN (SELECT 1)", ""),
    ("id = nextval('s') AND a = 'x'", "WHERE (a = 'x')"),
    ("o.id = 1", ""),
    ("other = 1", ""),
    ("t = t", ""),
    ("a COLLATE \"C\" = 'x'", ""),
]


@pytest.mark.parametrize(("condition", "narrowed"), WHERE)
def test_where(condition: str, narrowed: str) -> None:
    assert told("SELECT * FROM {p} t WHERE " + condition.replace("%%", "%")) == (True, narrowed.replace("%%", "%"))


@pytest.mark.parametrize(
    "condition",
    [
        "(a + 1) * 2 = 4",
        "a - (b - 1) > - -1",
        "(a = 1) = true",
        "NOT (a OR b) AND c",
        "(NOT a) = b",
        "a -> 'x' ->> 'y' = E'\\\\z\\n'",
        "a NOT BETWEEN SYMMETRIC 2 AND 1",
        "a IS NOT DISTINCT FROM b",
        "a OPERATOR(pg_catalog.=) U&'\\0041'",
        "a > interval '1 2' day to hour",
        "a::timestamp(3) with time zone > '2020-01-01'::timestamptz",
        "a NOT ILIKE '%x' OR a ~ 'y'",
        "ARRAY[[1],[2]] = a::numeric(5,2)[]",
        "(-a)::int = -b::int",
        "a IS NOT UNKNOWN AND (b IS NULL) = c",
        "a <> ALL ($1) AND a NOT IN (1, 2)",
        "a = B'101' AND b = X'1F' AND c = 1e10 AND d = 100000000000000000000",
        "\"A b\".\"Sel\" = 'it''s'",
    ],
)
def test_a_condition_is_written_as_it_is_read(condition: str) -> None:
    def read(text: str) -> object:
        (statement,) = pglast.parse_sql(f"SELECT WHERE {text}")
        return statement.stmt.whereClause

    written = _written(read(condition))
    assert written is not None
    assert read(written) == read(condition)


LIMIT = [
    ("SELECT * FROM {p} t LIMIT 10", "LIMIT 10"),
    ("SELECT * FROM {p} t OFFSET 5 LIMIT 10", "LIMIT 15"),
    ("SELECT * FROM {p} t FETCH FIRST 3 ROWS ONLY", "LIMIT 3"),
    ("SELECT * FROM {p} t WHERE id < 5 LIMIT 10", "WHERE (id < 5) LIMIT 10"),
    ("SELECT a, predicted FROM {p} t ORDER BY id DESC NULLS LAST, t.a LIMIT 3", "ORDER BY id DESC NULLS LAST, t.a LIMIT 3"),
    ("SELECT * FROM (SELECT * FROM {p} t) o LIMIT 3", "LIMIT 3"),
    ("SELECT * FROM (SELECT * FROM (SELECT * FROM {p} t WHERE id > 1) o) u LIMIT 3 OFFSET 1", "WHERE (id > 1) LIMIT 4"),
    ("SELECT * FROM (SELECT * FROM {p} t LIMIT 5) o LIMIT 3", "LIMIT 5"),
    ("INSERT INTO y SELECT * FROM {p} t LIMIT 2", "LIMIT 2"),
    ("SELECT id AS predicted FROM {p} t LIMIT 2", "LIMIT 2"),
    ("SELECT * FROM {p} t LIMIT ALL", ""),
    ("SELECT * FROM {p} t LIMIT $1", ""),
    ("SELECT * FROM {p} t OFFSET 5", ""),
    ("SELECT * FROM {p} t ORDER BY id FETCH FIRST 3 ROWS WITH TIES", ""),
    ("SELECT * FROM {p} t WHERE predicted = 'x' LIMIT 3", ""),
    ("SELECT * FROM {p} t WHERE lower(a) = 'x' LIMIT 3", ""),
    ("SELECT * FROM {p} t WHERE other = 1 LIMIT 3", ""),
    ("SELECT * FROM {p} t ORDER BY predicted LIMIT 3", ""),
    ("SELECT * FROM {p} t ORDER BY 1 LIMIT 3", ""),
    ("SELECT * FROM {p} t ORDER BY lower(a) LIMIT 3", ""),
    ("SELECT -id AS id, predicted FROM {p} t ORDER BY id LIMIT 3", ""),
    ("SELECT id::text, predicted FROM {p} t ORDER BY id LIMIT 3", ""),
    ("SELECT max(predicted) FROM {p} t LIMIT 1", ""),
    ("SELECT count(*), predicted FROM {p} t GROUP BY 2 LIMIT 1", ""),
    ("SELECT DISTINCT predicted FROM {p} t LIMIT 1", ""),
    ("SELECT unnest(ARRAY[]::int[]), predicted FROM {p} t LIMIT 1", ""),
    ("SELECT row_number() OVER (), predicted FROM {p} t LIMIT 1", ""),
    ("SELECT * FROM {p} t, k LIMIT 3", ""),
    ("SELECT * FROM k LEFT JOIN {p} t ON t.id = 1 WHERE t.id = 1 LIMIT 3", ""),
    ("SELECT * FROM {p} t (b, c, d, e) WHERE b = 1 LIMIT 3", ""),
    ("SELECT * FROM {p} t UNION SELECT * FROM k LIMIT 3", ""),
    ("(SELECT * FROM {p} t) UNION ALL SELECT * FROM k LIMIT 3", ""),
    ("SELECT * FROM (SELECT * FROM {p} t) o WHERE predicted = 'x' LIMIT 3", ""),
    ("SELECT * FROM (SELECT * FROM {p} t) o ORDER BY predicted LIMIT 3", ""),
    ("SELECT * FROM (SELECT DISTINCT predicted FROM {p} t) o LIMIT 3", ""),
    ("SELECT * FROM (SELECT * FROM {p} t) o, k LIMIT 3", ""),
    ("SELECT * FROM {p} t LIMIT 3 FOR UPDATE", ""),
]


@pytest.mark.parametrize(("pattern", "narrowed"), LIMIT)
def test_limit(pattern: str, narrowed: str) -> None:
    assert told(pattern)[1] == narrowed


def test_columns_that_the_query_has_twice_or_not_at_all_narrow_nothing() -> None:
    assert told("SELECT * FROM {p} t WHERE id = 1 AND a = 'x' LIMIT 1", ("id",))[1] == "WHERE (id = 1)"


def test_each_hole_has_its_own() -> None:
    first, second = asked("SELECT a.id, (SELECT predicted FROM {p} b WHERE id = 1) FROM {p} a LIMIT 2")
    assert second.predictions  # too careful: the name is all it goes by
    assert first.clauses(COLUMNS) == " WHERE (id = 1)"


@pytest.mark.parametrize("text", ["SELECT * FROM (SELECT thanoproxy_hole_0.*", "SELECT \0"])
def test_what_cannot_be_parsed_needs_everything(text: str) -> None:
    assert needs(text, [("predicted",)]) == [EVERYTHING]
