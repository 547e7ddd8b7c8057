"""Definitions of views with predictions, there and back, and what nobody but us would have written."""

from __future__ import annotations

import pytest

from thanoproxy.errors import InvalidDefinition
from thanoproxy.statements import recognise
from thanoproxy.statements.mentions import expanded, mentions, named_anew
from thanoproxy.statements.saved import in_dialect, saved
from thanoproxy.statements.shapes import Save


def made(text: str) -> str:
    """What the server gets for a CREATE VIEW."""
    (part,) = recognise(text) or ()
    assert isinstance(part.shape, Save)
    return saved(part.shape).text


def defined(head: str, name: str = "'predicted'::text") -> str:
    return f" SELECT q.id,\n    thanosql.saved({head}, {name}, NULL::text) AS predicted\n   FROM ( SELECT t.id\n           FROM t) q;"


class TestThereAndBack:
    def test_a_view_is_always_security_invoker(self) -> None:
        query = "PREDICT USING m AS SELECT id FROM t"
        assert made(f"CREATE VIEW v AS {query}").startswith("CREATE VIEW v WITH (security_invoker = true) AS SELECT q.*, thanosql.saved(")
        assert "(security_invoker = true, security_barrier) AS" in made(f"CREATE VIEW v WITH (security_barrier) AS {query}")
        assert made(f"CREATE VIEW v WITH (security_invoker) AS {query}").startswith("CREATE VIEW v WITH (security_invoker) AS")

    def test_one_predict_and_nothing_else(self) -> None:
        assert " ".join(in_dialect(defined("'PREDICT USING m AS'::text")).split()) == "PREDICT USING m AS SELECT t.id FROM t"

    def test_a_predict_in_a_query(self) -> None:
        definition = defined("'PREDICT USING m AS'::text").replace(";", " WHERE (q.id < 3);")
        expected = 'SELECT q.id, q."predicted" AS predicted FROM (PREDICT USING m AS SELECT t.id FROM t) q WHERE (q.id < 3)'
        assert " ".join(in_dialect(definition).split()) == expected

    def test_what_reads_other_views_is_left(self) -> None:
        assert in_dialect(" SELECT v.id FROM v;") == "SELECT v.id FROM v"


@pytest.mark.parametrize(
    "head",
    [
        "'PREDICT USING m AS SELECT 1; DROP TABLE t; --'",
        "'PREDICT USING m AS SELECT 1) q; DELETE FROM t; SELECT * FROM (PREDICT USING m AS'",
        "'PREDICT USING m AS (SELECT 1) UNION'",
        "'PREDICT USING m AS --'",
        "'PREDICT USING m AS /*'",
        "'PREDICT USING m AS ('",
        "'PREDICT USING m AS SELECT * FROM secrets WHERE EXISTS ('",
        "'DELETE FROM t USING'",
        "'LIST MODEL'",
        "'BUILD MODEL m USING ConvNeXt_Tiny AS'",
        "''",
        "t.head",
        "('PREDICT USING m ' || t.head)",
        "NULL::text",
    ],
)
def test_a_view_smuggles_nothing_into_the_statement_of_who_reads_it(head: str) -> None:
    with pytest.raises(InvalidDefinition):
        in_dialect(defined(head))


def test_a_call_needs_its_query() -> None:
    with pytest.raises(InvalidDefinition):
        in_dialect(" SELECT thanosql.saved('PREDICT USING m AS'::text, 'predicted'::text, NULL::text) AS predicted FROM t;")
    with pytest.raises(InvalidDefinition):
        in_dialect(defined("'PREDICT USING m AS'::text", "t.name"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("SELECT * FROM v", ["v"]),
        ('SELECT * FROM public."v" AS x', ['public."v"']),
        ("SELECT v FROM t v", []),
        ("SELECT v.v FROM t, V", ["V"]),
        ("SELECT * FROM t JOIN v USING (v)", ["v"]),
        ("SELECT * FROM (v JOIN t USING (id))", ["v"]),
        ("TABLE v", ["v"]),
        ("ALTER TABLE v ADD COLUMN x int", []),
        ("DELETE FROM v", []),
        ("DELETE FROM t USING v WHERE true", ["v"]),
        ("WITH v AS (SELECT 1) SELECT * FROM v", []),
        ("WITH v AS (SELECT * FROM v) SELECT * FROM v", ["v"]),
        ("WITH RECURSIVE v AS (SELECT * FROM v) SELECT * FROM v", []),
        ("SELECT extract(day FROM v) FROM t", []),
        ("SELECT 1 IS DISTINCT FROM v FROM t", []),
        ("SELECT * FROM v(1)", []),
        ("CREATE VIEW w AS SELECT * FROM v", []),
        ("CREATE TABLE w AS SELECT * FROM v", ["v"]),
        ("REVOKE SELECT ON t FROM v", []),
        ("SELECT 'FROM v', $$ FROM v $$ -- FROM v", []),
    ],
)
def test_a_name_counts_where_it_is_read(text: str, found: list[str]) -> None:
    assert [mention.written for mention in mentions(text, {"v"})] == found


def test_a_definition_stands_in_the_names_place_and_positions_are_those_of_the_name() -> None:
    text = "SELECT * FROM v WHERE nope"
    source = expanded(text, dict.fromkeys(mentions(text, {"v"}), "PREDICT USING m AS SELECT 1"))
    assert source.text == 'SELECT * FROM (PREDICT USING m AS SELECT 1\n) AS "v" WHERE nope'
    assert source.position(source.text.index("nope") + 1) == text.index("nope") + 1
    assert source.position(source.text.index("SELECT 1") + 1) == text.index("v") + 1


def test_names_that_views_get() -> None:
    assert named_anew("ALTER VIEW v RENAME TO w", {"v"}) == {"w"}
    assert named_anew('CREATE OR REPLACE VIEW s."W w" AS SELECT * FROM v', {"v"}) >= {"W w"}
    assert named_anew("ALTER VIEW x RENAME TO w", {"v"}) == set()
