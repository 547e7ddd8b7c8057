"""Whatever is asked of PREDICT inside other SQL, the answer is the one that the stored predictions give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, LiteralString, cast

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Connection = psycopg.Connection[tuple[Any, ...]]

HOLE = "(PREDICT USING colours AS SELECT id, image, label, id % 5 AS n FROM pictures WHERE id < 14 ORDER BY id DESC)"
STORED = "(SELECT * FROM stored ORDER BY id DESC)"

numbers = st.integers(-1, 15)
columns = st.sampled_from(["id", "t.n", "label", "predicted", "t.predicted"])
conditions = st.recursive(
    st.one_of(
        st.builds("{} {} {}".format, st.sampled_from(["id", "t.n", "t.id % 3", "n - 2"]), st.sampled_from(["<", "=", ">=", "<>"]), numbers),
        st.builds("predicted {} '{}'".format, st.sampled_from(["=", "<>", "<"]), st.sampled_from(["red", "blue", "green"])),
        st.builds("length({}) > {}".format, st.sampled_from(["predicted", "label"]), st.integers(2, 4)),
        st.sampled_from(["predicted = label", "1 = 0", "true", "NULL", "image LIKE 'red/%'", "(t.*) IS NOT NULL", "coalesce(n, 0) < 3"]),
        st.builds("t.n IN (SELECT k.id FROM pictures k WHERE k.id <> {})".format, numbers),
    ),
    lambda inner: st.one_of(st.builds("({} AND {})".format, inner, inner), st.builds("({} OR {})".format, inner, inner)),
    max_leaves=3,
)
where = st.one_of(st.just(""), conditions.map(" WHERE {}".format))
projections = st.sampled_from(
    (
        "*",
        "t.*",
        "id, predicted",
        "id",
        "predicted, id",
        "id, upper(predicted) AS predicted",
        "t.id AS n, label",
        "id::text, predicted",
        "id, count(*) OVER (PARTITION BY predicted) AS m",
        "-id AS id, predicted",
        "t::text, t.id",
        "'x' AS c, t.id",
    )
)
limits = st.one_of(
    st.just(""),
    st.builds(" LIMIT {}".format, st.integers(0, 20)),
    st.builds(" OFFSET {} LIMIT {}".format, st.integers(0, 4), st.integers(0, 9)),
)
orders = st.sampled_from(
    [" ORDER BY t.id", " ORDER BY t.id DESC", " ORDER BY t.n, t.id", " ORDER BY predicted, t.id", " ORDER BY t.id + 0"]
)


@st.composite
def rows(draw: st.DrawFn) -> str:
    """A SELECT in the order of a key."""
    return f"SELECT {draw(projections)} FROM {{p}} AS t{draw(where)}{draw(orders)}{draw(limits)}"


groups = st.builds(
    "SELECT {0}, count(*), min(id), count(DISTINCT predicted) FROM {{p}} t{1} GROUP BY {0} HAVING count(*) > {2} ORDER BY {0}{3}".format,
    columns,
    where,
    st.integers(0, 3),
    limits,
)
joins = st.builds(
    "SELECT t.id, {} FROM {{p}} t {} JOIN pictures k ON {} ORDER BY 1, 2, k.id{}".format,
    st.sampled_from(["k.label", "predicted", "t.n"]),
    st.sampled_from(["", "LEFT", "RIGHT"]),
    st.sampled_from(["t.id = k.id", "t.id + 1 = k.id AND predicted = 'red'", "t.n = k.id AND t.id < 9", "k.label = t.predicted"]),
    limits,
)
sets = st.builds(
    "SELECT id, predicted FROM {{p}} t{} {} SELECT id, {} FROM {{p}} t{} ORDER BY 1, 2{}".format,
    where,
    st.sampled_from(["UNION", "UNION ALL", "EXCEPT", "INTERSECT ALL"]),
    st.sampled_from(["predicted", "label"]),
    where,
    limits,
)
ctes = st.builds(
    "WITH t AS {} {{p}} SELECT {} FROM t{} ORDER BY id, 1{}".format,
    st.sampled_from(["", "MATERIALIZED"]),
    st.sampled_from(["*", "id, predicted", "id", "t.id, label"]),
    where,
    limits,
)
wrapped = st.one_of(
    st.builds("SELECT * FROM ({}) AS virtual_table{}".format, rows(), limits),
    st.builds("SELECT count(*) FROM ({}) AS c".format, rows()),
    st.builds(
        "SELECT o.id, o.predicted FROM (SELECT * FROM {{p}} t{}) o{} ORDER BY id{}".format,
        where,
        where.map(lambda w: w.replace("t.", "o.")),
        limits,
    ),
)
queries = st.one_of(rows(), groups, joins, sets, ctes, wrapped)


@pytest.fixture(scope="module")
def together(url: str) -> Iterator[Connection]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(cast(LiteralString, f"CREATE TABLE stored AS {HOLE}"))
        yield connection


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=queries, binary=st.booleans())
def test_the_same_as_over_stored_predictions(together: Connection, query: str, binary: bool) -> None:
    def answer(source: str) -> object:
        cursor = together.execute(cast(LiteralString, query.format(p=source)), binary=binary)
        return [column.name for column in cursor.description or ()], cursor.fetchall()

    assert answer(HOLE) == answer(STORED)
