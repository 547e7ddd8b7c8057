"""ALTER, DROP, DESCRIBE, GRANT and REVOKE … MODEL as text: what they become, what is PostgreSQL's, and what is wrong and where."""

from __future__ import annotations

import pytest

from thanoproxy.errors import ThanoError
from thanoproxy.statements import recognise
from thanoproxy.statements.shapes import Nested, Rewrite

REWRITES = [
    ("SHOW MODELS", "FROM thanosql.models m ORDER BY m.name", None),
    ("show /* all */ models;", "FROM thanosql.models m ORDER BY m.name", None),
    ("DESCRIBE MODEL m", "thanosql.describe_model(E'm'::pg_catalog.text, NULL::pg_catalog.int4)", None),
    ('describe model "M m"@2', "thanosql.describe_model(E'M m'::pg_catalog.text, 2::pg_catalog.int4)", None),
    ("DROP MODEL m CASCADE", "CALL thanosql.drop_model(E'm'::pg_catalog.text, false)", b"DROP MODEL"),
    ("DELETE MODEL IF EXISTS m@2 RESTRICT", "CALL thanosql.drop_version(E'm'::pg_catalog.text, 2, true)", b"DROP MODEL"),
    ("DROP MODEL cascade", "CALL thanosql.drop_model(E'cascade'::pg_catalog.text, false)", b"DROP MODEL"),
    ('ALTER MODEL M RENAME TO "N\'"', "CALL thanosql.rename_model(E'm'::pg_catalog.text, E'N'''::pg_catalog.text, false)", b"ALTER MODEL"),
    (
        "ALTER MODEL IF EXISTS m OWNER TO Bob",
        "CALL thanosql.give_model(E'm'::pg_catalog.text, E'bob'::pg_catalog.text, true)",
        b"ALTER MODEL",
    ),
    ("ALTER MODEL m OWNER TO Current_User", "give_model(E'm'::pg_catalog.text, CURRENT_USER::pg_catalog.text, false)", b"ALTER MODEL"),
    ('ALTER MODEL m OWNER TO "current_user"', "E'current_user'::pg_catalog.text", b"ALTER MODEL"),
    ("ALTER MODEL m SET VERSION 2", "CALL thanosql.set_version(E'm'::pg_catalog.text, 2, false)", b"ALTER MODEL"),
    (
        "GRANT USAGE ON MODEL m, n TO bob, GROUP team, PUBLIC",
        "CALL thanosql.grant_usage(ARRAY[E'm'::pg_catalog.text, E'n'::pg_catalog.text]::pg_catalog.text[], "
        "ARRAY[E'bob'::pg_catalog.text, E'team'::pg_catalog.text, E'public'::pg_catalog.text]::pg_catalog.text[])",
        b"GRANT",
    ),
    ("GRANT ALL ON MODEL m TO SESSION_USER", "ARRAY[SESSION_USER::pg_catalog.text]", b"GRANT"),
    ("GRANT ALL PRIVILEGES ON MODEL m TO bob", "thanosql.grant_usage", b"GRANT"),
    ("REVOKE USAGE ON MODEL m FROM bob CASCADE", "CALL thanosql.revoke_usage(", b"REVOKE"),
    ('REVOKE ALL ON MODEL "to" FROM bob', "E'to'", b"REVOKE"),
]


@pytest.mark.parametrize(("text", "sql", "tag"), REWRITES, ids=[case[0] for case in REWRITES])
def test_rewrites(text: str, sql: str, tag: bytes | None) -> None:
    parts = recognise(text)
    assert parts is not None
    (part,) = parts
    assert isinstance(part.shape, Rewrite)
    assert sql in part.shape.sql
    assert part.shape.tag == tag


@pytest.mark.parametrize(
    "text",
    [
        "SHOW model",
        "SHOW models.something",
        'SHOW "models"',
        "GRANT SELECT ON model TO bob",
        "GRANT USAGE ON model TO bob",  # a sequence
        "GRANT USAGE ON MODEL, other TO bob",
        "GRANT SELECT ON model.t TO bob",
        "GRANT SELECT (model) ON t TO bob",
        "GRANT model TO bob",
        "REVOKE ALL ON MODEL FROM bob",
        "REVOKE model FROM bob",
        "GRANT USAGE ON SCHEMA model TO bob",
        "ALTER TABLE model RENAME TO m",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO model",
        "DROP TABLE model",
        "SELECT * FROM (describe model JOIN t ON true)",
        "SELECT * FROM (show models CROSS JOIN t)",
        "SELECT describe model",
    ],
)
def test_what_stays_postgresqls(text: str) -> None:
    assert recognise(text) is None


@pytest.mark.parametrize("inside", ["DESCRIBE MODEL m", "describe model m@3", "SHOW MODELS", "LIST MODEL"])
@pytest.mark.parametrize(
    "around", ["SELECT * FROM ({})", "WITH d AS ({}) TABLE d", "CREATE TABLE t AS SELECT * FROM ({}) AS d", "INSERT INTO t ({})"]
)
def test_inside_other_sql(inside: str, around: str) -> None:
    parts = recognise(around.format(inside))
    assert parts is not None
    (part,) = parts
    assert isinstance(part.shape, Nested)
    assert isinstance(part.shape.holes[0].shape, Rewrite)


WRONG = [
    # statement, SQLSTATE, where, message, hint (or a part of each); the place is the last of its text, '' the end
    ("ALTER MODEL m RENAME n", "42601", "n", "expected TO", "ALTER MODEL m RENAME TO"),
    ("ALTER MODEL m RENAME TO", "42601", "", "expected a new name", None),
    ("ALTER MODEL m RENAME TO n@2", "0A000", "n@2", "no names of their own", None),
    ("ALTER MODEL m RENAME TO 'n'", "42601", "'n'", "expected a new name", None),
    ("ALTER MODEL m RENAME TO n o", "42601", "o", "expected the end", None),
    ("ALTER MODEL m@2 RENAME TO n", "0A000", "m@2", "all its versions", "without @"),
    ("ALTER MODEL m", "42601", "", "expected RENAME TO, OWNER TO or SET VERSION", None),
    ("ALTER MODEL m ADD COLUMN a", "42601", "ADD COLUMN a", "expected RENAME TO", None),
    ("ALTER MODEL", "42601", "", "expected the name of a model", None),
    ("ALTER MODEL IF EXISTS RENAME TO n", "42601", "TO n", "expected RENAME TO", None),
    ("ALTER MODEL m OWNER bob", "42601", "bob", "expected TO", "OWNER TO role"),
    ("ALTER MODEL m OWNER TO", "42601", "", "expected the name of a role", None),
    ("ALTER MODEL m OWNER TO public", "42704", "public", 'role "public" does not exist', None),
    ("ALTER MODEL m OWNER TO none", "42939", "none", "reserved", None),
    ("ALTER MODEL m SET 2", "42601", "2", "expected VERSION", "SET VERSION number"),
    ("ALTER MODEL m SET VERSION", "42601", "", "expected the number of a version", None),
    ("ALTER MODEL m SET VERSION 0", "42601", "0", "expected the number of a version", None),
    ("ALTER MODEL m SET VERSION 1.5", "42601", "1.5", "expected the number of a version", None),
    ("ALTER MODEL m SET VERSION 2147483648", "42601", "2147483648", "expected the number of a version", None),
    ("DESCRIBE MODEL", "42601", "", "expected the name of a model", None),
    ("DESCRIBE MODEL m@", "42601", "", "a version number after @", None),
    ("DESCRIBE MODEL m@x", "42601", "x", "a version number after @", None),
    ("DESCRIBE MODEL m, n", "42601", ", n", "expected the end", None),
    ("SHOW MODELS m", "42601", "m", "expected the end", None),
    ("DROP MODEL m CASCADE RESTRICT", "42601", "RESTRICT", "expected the end", None),
    ("DROP MODEL m@0", "42601", "0", "a version number after @", None),
    ("GRANT SELECT ON MODEL m TO x", "0LP01", "SELECT", "invalid privilege type SELECT for model", "USAGE"),
    ("GRANT USAGE, EXECUTE ON MODEL m TO x", "0LP01", "EXECUTE", "invalid privilege type EXECUTE", "USAGE"),
    ("GRANT ON MODEL m TO x", "42601", "ON", "expected a privilege", None),
    ("GRANT USAGE (a) ON MODEL m TO x", "42601", "(", "expected ON", None),
    ("GRANT USAGE ON MODEL m", "42601", "", "expected TO", "GRANT USAGE ON MODEL name TO role."),
    ("GRANT USAGE ON MODEL m TO", "42601", "", "expected the name of a role", None),
    ("GRANT USAGE ON MODEL m, TO x", "42601", "x", "expected TO", None),
    ("GRANT USAGE ON MODEL m@2 TO x", "0A000", "m@2", "all its versions", "without @"),
    ("GRANT USAGE ON MODEL m TO none", "42939", "none", "reserved", None),
    ("GRANT USAGE ON MODEL m TO x WITH GRANT OPTION", "0A000", "WITH", "WITH GRANT OPTION is not supported", "owner"),
    ("GRANT USAGE ON MODEL m TO x GRANTED BY y", "0A000", "GRANTED", "GRANTED BY is not supported", None),
    ("REVOKE GRANT OPTION FOR USAGE ON MODEL m FROM x", "0A000", "GRANT OPTION", "GRANT OPTION FOR is not supported", None),
    ("REVOKE USAGE ON MODEL m TO x", "42601", "TO", "expected FROM", "REVOKE USAGE ON MODEL name FROM role."),
    ("REVOKE INSERT ON MODEL m FROM x", "0LP01", "INSERT", "invalid privilege type INSERT", None),
]


@pytest.mark.parametrize(("text", "sqlstate", "place", "message", "hint"), WRONG, ids=[case[0] for case in WRONG])
def test_what_is_wrong_and_where(text: str, sqlstate: str, place: str, message: str, hint: str | None) -> None:
    with pytest.raises(ThanoError) as caught:
        recognise(text)
    error = caught.value
    assert (error.sqlstate, error.position) == (sqlstate, text.rindex(place) + 1 if place else len(text) + 1)
    assert message in error.message
    assert hint is None or hint in (error.hint or "")
