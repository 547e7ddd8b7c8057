"""Where statements of ours begin and end inside others, told from the text alone."""

from __future__ import annotations

import re

import pytest

from thanoproxy.errors import FeatureNotSupported, SyntaxProblem, ThanoError
from thanoproxy.sql.source import Source
from thanoproxy.statements import recognise
from thanoproxy.statements.render import described, hole_query
from thanoproxy.statements.shapes import Hole, Nested, Rewrite

P = "PREDICT USING m AS SELECT 1 AS image"


def found(text: str) -> Nested:
    """`text` as a statement with holes."""
    parts = recognise(text)
    assert parts is not None
    (part,) = parts
    assert isinstance(part.shape, Nested)
    return part.shape


def spans(text: str, holes: tuple[Hole, ...]) -> list[str]:
    return [text[hole.start : hole.end] for hole in holes]


HOLES = [
    # Holes are marked «…» here; the text is without the marks.
    "SELECT * FROM («PREDICT USING m AS SELECT 1») t",
    "SELECT * FROM («predict /* ( */ using m options (batch_size=3) as (SELECT 1)») t",
    "SELECT * FROM ((«PREDICT USING m AS SELECT (1)»)) t",
    "SELECT * FROM («PREDICT USING m@2 AS SELECT ')' AS \")\"») -- )\n t",
    "SELECT * FROM («PREDICT USING m AS VALUES (1)») a JOIN («PREDICT USING n AS TABLE x») b USING (id)",
    "SELECT (SELECT predict FROM («PREDICT USING m AS SELECT 1») t)",
    "SELECT 1 WHERE 1 IN («PREDICT USING m AS SELECT 1»)",
    "WITH p AS («PREDICT USING m AS SELECT 1»), q (a) AS NOT MATERIALIZED («PREDICT USING m AS SELECT 2») SELECT 1",
    "(SELECT 1) UNION («PREDICT USING m AS SELECT 1») ORDER BY 1",
    "CREATE TABLE x AS «PREDICT USING m AS SELECT 1»",
    "CREATE TEMP TABLE x (a, b) ON COMMIT DROP AS «PREDICT USING m AS SELECT 1» WITH NO DATA",
    "CREATE TABLE IF NOT EXISTS x AS («PREDICT USING m AS SELECT 1») WITH DATA",
    "CREATE TABLE x AS «PREDICT USING m AS WITH data AS (SELECT 1) SELECT * FROM data»",
    "INSERT INTO x «PREDICT USING m AS SELECT 1»",
    "INSERT INTO x (a, b) OVERRIDING USER VALUE «PREDICT USING m AS SELECT 1» RETURNING *",
    "INSERT INTO x AS y «PREDICT USING m AS SELECT 1» ON CONFLICT DO NOTHING",
    "INSERT INTO x «PREDICT USING m AS SELECT 1 FROM a JOIN b ON conflict = 1» ON CONFLICT (id) DO UPDATE SET a = 1 RETURNING a",
    "WITH w AS (SELECT 1) INSERT INTO x «PREDICT USING m AS SELECT 1» RETURNING a",
    "WITH w AS (INSERT INTO x «PREDICT USING m AS SELECT 1» RETURNING a) SELECT 1",
    "COPY («PREDICT USING m AS SELECT 1») TO STDOUT (FORMAT csv)",
    "DECLARE c SCROLL CURSOR WITH HOLD FOR «PREDICT USING m AS SELECT 1»",
    "UPDATE x SET a = 1 FROM («PREDICT USING m AS SELECT 1») t",
    "SELECT 1 FROM («LIST MODEL») a, («list models») b, («LIST THANOSQL MODEL») c",
    "«PREDICT USING m AS PREDICT USING n AS SELECT 1»",
    "«PREDICT USING m AS SELECT * FROM (PREDICT USING n AS SELECT 1) t»",
    "SELECT 1 AS predict FROM («PREDICT USING predict AS SELECT 1») predict",
    "«EVALUATE USING m AS PREDICT USING n AS SELECT 1»",
    "SELECT evaluate FROM («EVALUATE USING m OPTIONS (per_class=true) AS CONVERT USING n AS SELECT 1») convert",
    "CREATE TABLE x AS «CONVERT USING m AS SELECT 1» WITH DATA",
    "INSERT INTO x «EVALUATE USING m AS (SELECT 1)» ON CONFLICT DO NOTHING",
    "EXPLAIN ANALYZE «EVALUATE USING m AS SELECT 1»",
]


@pytest.mark.parametrize("marked", HOLES)
def test_holes(marked: str) -> None:
    text = re.sub("[«»]", "", marked)
    assert spans(text, found(text).holes) == re.findall("«(.*?)»", marked, re.DOTALL)
    # The same behind something else, and with a semicolon.
    assert spans(f" /* x */ {text};", found(f" /* x */ {text};").holes) == re.findall("«(.*?)»", marked, re.DOTALL)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT a FROM x JOIN predict USING (id)",
        "SELECT a FROM x AS predict JOIN y AS predict USING (id)",
        "SELECT convert(a, 'b', 'c') FROM x AS convert JOIN y AS evaluate USING (id)",
        "DELETE FROM t USING evaluate, convert",
        "SELECT predict, evaluate FROM t",
        "SELECT 1 AS predict",
        "DELETE FROM t USING predict",
        "MERGE INTO t USING predict USING x ON true",
        "INSERT INTO predict SELECT 1",
        "INSERT INTO t SELECT * FROM a JOIN predict USING (id)",
        "CREATE TABLE predict AS SELECT 1",
        "SELECT 'FROM (PREDICT USING m AS SELECT 1)'",
        'SELECT "predict" FROM (SELECT 1) "predict"',
        "DO $$ SELECT * FROM (PREDICT USING m AS SELECT 1) $$",
        "SELECT f(list, model) FROM (list model JOIN x ON true)",
        "SELECT 1 -- FROM (PREDICT USING m AS SELECT 1)",
        "DELETE FROM model",
    ],
)
def test_what_is_not_ours(text: str) -> None:
    assert recognise(text) is None


def test_holes_inside_holes() -> None:
    text = f"SELECT * FROM (PREDICT USING a AS SELECT * FROM ({P}) x, (PREDICT USING b AS {P}) y) t, ({P}) u"
    first, second = found(text).holes
    assert spans(text, first.holes) == [P, f"PREDICT USING b AS {P}"]
    assert spans(text, first.holes[1].holes) == [P]
    assert second.holes == ()


class TestAlias:
    """An item of FROM without a name gets one: PostgreSQL demands it before 16."""

    @pytest.mark.parametrize(
        "pattern",
        [
            "SELECT * FROM ({})| WHERE true",
            "SELECT * FROM ({})|",
            "SELECT * FROM x JOIN ({})| ON true",
            "SELECT * FROM x, ({})|, y",
            "SELECT * FROM f(a, b), ({})| LIMIT 1",
            "SELECT (SELECT 1 FROM ({})|)",
            "DELETE FROM x USING ({})| WHERE true",
            "CREATE TABLE x AS SELECT * FROM ({})| WITH DATA",
            "SELECT * FROM ({}) t",
            "SELECT * FROM ({}) AS t",
            'SELECT * FROM ({}) "Custom SQL Query"',
            "SELECT ({}), 1 FROM x",
            "SELECT 1, ({}) FROM x",
            "SELECT f(1, ({}))",
            "SELECT 1 WHERE 1 IS DISTINCT FROM ({})",
            "SELECT extract(day FROM ({}))",
            "SELECT 1 IN ({})",
            "VALUES (({}), ({}))",
            "INSERT INTO x ({})",
        ],
    )
    def test_where(self, pattern: str) -> None:
        text = pattern.replace("|", "").format(P, P)
        places = {hole.alias_at for hole in found(text).holes}
        assert places == {pattern.index("|") + len(P) - 2 if "|" in pattern else None}

    def test_it_is_written(self) -> None:
        assert described(found(f"SELECT 1 FROM ({P}), ({P}) t LIMIT 1")).text.count(") AS thanoproxy_0, (") == 1


class TestContexts:
    """The WITH lists around a hole, as far as its query names them."""

    CASES = (
        ("WITH a AS (SELECT 1) SELECT * FROM (PREDICT USING m AS TABLE b) t", []),
        ("WITH a AS (SELECT 1), b AS (SELECT 2) SELECT * FROM (PREDICT USING m AS TABLE a) t", [(False, ["a AS (SELECT 1)"])]),
        (
            "WITH a AS (SELECT 1), b (x) AS (TABLE a) SELECT * FROM (PREDICT USING m AS TABLE B) t",
            [(False, ["a AS (SELECT 1)", "b (x) AS (TABLE a)"])],
        ),
        ('WITH "A b" AS (SELECT 1) SELECT * FROM (PREDICT USING m AS TABLE "A b") t', [(False, ['"A b" AS (SELECT 1)'])]),
        ("WITH RECURSIVE a AS (TABLE a) SELECT * FROM (PREDICT USING m AS TABLE a) t", [(True, ["a AS (TABLE a)"])]),
        ("WITH a AS MATERIALIZED (SELECT 1), p AS (PREDICT USING m AS TABLE a) TABLE p", [(False, ["a AS MATERIALIZED (SELECT 1)"])]),
        ("WITH p AS (PREDICT USING m AS TABLE a), a AS (SELECT 1) TABLE p", []),
        ("SELECT * FROM (WITH a AS (SELECT 1) TABLE a) o, (PREDICT USING m AS TABLE a) t", []),
        (
            "WITH a AS (SELECT 1) SELECT (WITH RECURSIVE a AS (SELECT 2) SELECT 1 FROM (PREDICT USING m AS TABLE a) t)",
            [(False, ["a AS (SELECT 1)"]), (True, ["a AS (SELECT 2)"])],
        ),
        ("WITH a AS (DELETE FROM x), b AS (SELECT 1) SELECT * FROM (PREDICT USING m AS TABLE b) t", [(False, ["b AS (SELECT 1)"])]),
        ("CREATE TABLE a WITH (fillfactor = 70) AS PREDICT USING m AS TABLE a", []),
        ("INSERT INTO x WITH a AS (SELECT 1) SELECT * FROM (PREDICT USING m AS TABLE a) t", [(False, ["a AS (SELECT 1)"])]),
    )

    @pytest.mark.parametrize(("text", "expected"), CASES)
    def test_what_is_visible(self, text: str, expected: list[tuple[bool, list[str]]]) -> None:
        (hole,) = found(text).holes
        assert [(context.recursive, [text[start:end] for start, end in context.items]) for context in hole.contexts] == expected

    def test_the_query_with_them(self) -> None:
        text = (
            "WITH a AS (SELECT 1), p AS (PREDICT USING m AS TABLE a) "
            "SELECT (WITH RECURSIVE b AS (TABLE p) SELECT 1 FROM (PREDICT USING n AS TABLE b) t)"
        )
        statement = found(text)
        assert hole_query(statement, statement.holes[1], described_hole).text == (
            "WITH a AS (SELECT 1), p AS (filled) SELECT * FROM (WITH RECURSIVE b AS (TABLE p) SELECT * FROM (TABLE b\n) AS q\n) AS q"
        )

    def test_a_hole_in_an_item_inside_a_hole(self) -> None:
        text = "PREDICT USING m AS WITH a AS (PREDICT USING n AS SELECT 1), b AS (PREDICT USING o AS TABLE a) TABLE b"
        statement = found(text)
        inner = statement.holes[0].holes[1]
        assert hole_query(statement, inner, described_hole).text == "WITH a AS (filled) SELECT * FROM (TABLE a\n) AS q"


def described_hole(_: Hole) -> Source:
    source = Source()
    source.add("filled")
    return source


REFUSED: list[tuple[str, type[ThanoError], str, str]] = [
    # text, error, the text that its position points at, message
    ("CREATE FUNCTION f() RETURNS int RETURN (SELECT 1 FROM (PREDICT USING m AS SELECT 1))", FeatureNotSupported, "PREDICT", "FUNCTION"),
    ("CALL p((PREDICT USING m AS SELECT 1))", FeatureNotSupported, "PREDICT", "CALL"),
    ("SELECT * FROM x, LATERAL (PREDICT USING m AS SELECT x.a) t", FeatureNotSupported, "LATERAL", "LATERAL"),
    ("SELECT * FROM (SEARCH IMAGE x) t", FeatureNotSupported, "SEARCH", "SEARCH IMAGE"),
    ("SELECT * FROM (PRINT IMAGE AS SELECT 1) t", FeatureNotSupported, "PRINT", "PRINT IMAGE is not supported yet"),
    ("SELECT * FROM x, LATERAL (CONVERT USING m AS SELECT x.a) t", FeatureNotSupported, "LATERAL", "CONVERT cannot be LATERAL"),
    ("SELECT 1 EXCEPT EVALUATE USING m AS SELECT 1", SyntaxProblem, "EVALUATE", "EVALUATE needs parentheses"),
    ("WITH d AS (DELETE FROM x RETURNING *) SELECT * FROM (PREDICT USING m AS TABLE d) t", FeatureNotSupported, "d AS", "changes data"),
    ("BUILD MODEL b USING MobileNet_V2 AS SELECT * FROM (PREDICT USING m AS SELECT 1) t", FeatureNotSupported, "PREDICT", "BUILD"),
    ("SELECT 1 UNION ALL PREDICT USING m AS SELECT 1", SyntaxProblem, "PREDICT", "parentheses"),
    ("SELECT * FROM (PREDICT USING m OPTIONS (x=1) AS SELECT 1) t", SyntaxProblem, "x=1", "unknown option"),
    ("SELECT * FROM (PREDICT USING m SELECT 1) t", SyntaxProblem, "SELECT 1", "expected AS"),
    ("SELECT * FROM (PREDICT USING m AS SELECT 1; SELECT 2", SyntaxProblem, "; SELECT 2", "near"),
    ("PREDICT USING m AS SELECT (1; SELECT 2", SyntaxProblem, "; SELECT 2", "near"),
    ("SELECT * FROM (PREDICT USING m AS) t", SyntaxProblem, ") t", "a query after AS"),
    ("SELECT * FROM (PREDICT USING m AS SELECT 1) a, (PREDICT USING m AS DROP TABLE x) b", SyntaxProblem, "DROP", "a query"),
]


@pytest.mark.parametrize(("text", "error", "place", "message"), REFUSED)
def test_refused(text: str, error: type[ThanoError], place: str, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        recognise(text)
    assert caught.value.position == text.rindex(place) + 1


class TestDescribed:
    """What PostgreSQL is shown when the statement is prepared."""

    def test_predictions_are_what_fails_when_it_is_run(self) -> None:
        text = "SELECT * FROM (PREDICT USING m OPTIONS (result_col='Say \"x\"') AS SELECT $1) t WHERE a = $2"
        assert described(found(text)).text == (
            'SELECT * FROM (SELECT thanoproxy_hole_0.*, thanosql.unpredicted() AS "Say ""x""" FROM (SELECT $1\n) AS thanoproxy_hole_0) t '
            "WHERE a = $2"
        )

    def test_what_is_no_text_is_so_by_a_cast(self) -> None:
        convert = described(found("SELECT * FROM (CONVERT USING m AS SELECT $1) t")).text
        assert 'thanosql.unpredicted()::pg_catalog.float4[] AS "embedding"' in convert
        evaluate = described(found("SELECT * FROM (EVALUATE USING m AS SELECT $1) t")).text
        assert evaluate == (
            'SELECT * FROM (SELECT thanosql.unpredicted() AS "metric", thanosql.unpredicted()::pg_catalog.float8 AS "score" '
            "WHERE (SELECT pg_catalog.count(*) FROM (SELECT $1\n) AS q) IS NOT NULL) t"
        )

    def test_positions(self) -> None:
        text = f"/* 😀 */ SELECT a FROM ({P}) t WHERE ({P}) = b"
        source = described(found(text))
        for mark in ("SELECT a", "t WHERE", "= b", "image", "1 AS"):
            assert source.position(source.text.index(mark) + 1) == text.index(mark) + 1

    def test_what_is_ours_is_at_the_end_of_what_is_before(self) -> None:
        text = "SELECT * FROM (PREDICT USING m AS SELECT 1 WHERE) t"
        source = described(found(text))
        assert source.position(source.text.index(") AS thano") + 1) == text.index(") t") + 1
        assert source.position(len(source.text) + 1) == len(text) + 1

    def test_list_model(self) -> None:
        statement = found("SELECT * FROM (LIST MODEL) m")
        (hole,) = statement.holes
        assert isinstance(hole.shape, Rewrite)
        assert described(statement).text == f"SELECT * FROM (SELECT * FROM ({hole.shape.sql}) AS q) m"


@pytest.mark.parametrize(
    ("text", "outlives", "needs_block"),
    [
        (f"SELECT * FROM ({P}) t", False, False),
        (f"DECLARE c CURSOR FOR {P}", True, True),
        (f"declare c cursor without hold for {P}", True, True),
        (f"Declare hold Cursor With\n Hold For {P}", True, False),
    ],
)
def test_cursors(text: str, outlives: bool, needs_block: bool) -> None:
    statement = found(text)
    assert (statement.outlives, statement.needs_block) == (outlives, needs_block)
