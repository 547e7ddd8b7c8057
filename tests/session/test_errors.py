"""Bad input: each kind has its SQLSTATE, points at the place to blame, says what would help, and leaves the session usable."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from tests.databases import Database
from tests.rawwire import RawClient, bind, parse
from tests.serving import Proxy
from thanoproxy.wire.messages import SYNC

BUILD = "BUILD MODEL m USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32{}) AS {}"
ROWS = "SELECT * FROM pictures"

CASES: list[tuple[str, str, str | None, str, str | None]] = [
    # statement, SQLSTATE, the text its position points at, message, hint (or a part of each)
    ("PREDICT USING nobody AS SELECT '' AS image", "42704", "nobody", 'model "nobody" does not exist', "LIST MODEL"),
    ("PREDICT USING colours@7 AS SELECT '' AS image", "42704", "colours@7", 'model "colours@7" does not exist', None),
    ("DROP MODEL nobody", "42704", None, 'model "nobody" does not exist', None),
    ("BUILD MODEL m USING ConvNext_Tini AS SELECT 1", "42704", "ConvNext_Tini", "does not exist", "Did you mean ConvNeXt_Tiny?"),
    ("BUILD MODEL m USING ResNet9 AS SELECT 1", "42704", "ResNet9", 'architecture "ResNet9"', None),
    (BUILD.format(", epoch=1", ROWS), "42601", "epoch=1", 'unknown option "epoch"', "Did you mean epochs?"),
    (BUILD.format(", epochs='x'", ROWS), "22023", "'x'", "whole number", None),
    (BUILD.format(", epochs=0", ROWS), "22023", "0) AS", "at least 1", None),
    (BUILD.format(", learning_rate=-1e-3", ROWS), "22023", "-1e-3", "above 0", None),
    (BUILD.format(", tune='half'", ROWS), "22023", "'half'", "'auto' or 'full' or 'head'", None),
    (BUILD.format(", color=RGB", ROWS), "42601", "RGB", "a value for color", "'RGB'"),
    (BUILD.format(", epochs=1, max_epochs=2", ROWS), "42601", "max_epochs", 'means "epochs"', None),
    (BUILD.format(", early_stopping=0", ROWS), "22023", "0) AS", "at least 1 and at most 10000 or TRUE or FALSE", None),
    (
        BUILD.format(", early_stopping=true, validation_split=0", ROWS),
        "22023",
        "true,",
        "needs images to validate on",
        "Leave validation_split",
    ),
    (BUILD.format(", max_seconds=0", ROWS), "22023", "0) AS", "a number above 0", None),
    (BUILD.format(", class_weights='heavy'", ROWS), "22023", "'heavy'", "'balanced', NONE or a list of numbers above 0", None),
    (BUILD.format(", class_weights=[1, -2]", ROWS), "22023", "[1", "numbers above 0 and at most 1000000, not -2", None),
    (BUILD.format(", class_weights=[1, 2, 3]", ROWS), "22023", "[1, 2", "has 3 numbers for 2 classes", None),
    (BUILD.format(", tune='head'", ROWS), "22023", "'head'", "tune='head' needs pretrained weights", "leave tune out"),
    (BUILD.format(", seed=2147483648", ROWS), "22023", "2147483648", "at most 2147483647, not 2147483648", None),
    (
        "BUILD MODEL m USING MobileNet_V2 OPTIONS (weights='gone.pth') AS SELECT * FROM pictures",
        "58P01",
        "'gone.pth'",
        'weights file "gone.pth" is not available',
        "weights=",
    ),
    (BUILD.format(", image_col='picture'", ROWS), "42703", "'picture'", 'no column "picture"', None),
    (BUILD.format(", label_col='labell'", ROWS), "42703", "'labell'", 'no column "labell"', 'Did you mean "label"?'),
    (BUILD.format("", "SELECT image FROM pictures"), "42703", None, 'no column "label"', "label_col"),
    (BUILD.format("", "SELECT 1 AS image, label FROM pictures"), "42804", None, "neither text nor bytea", None),
    (BUILD.format("", "SELECT image, NULLIF(label, 'red') AS label FROM pictures ORDER BY id"), "22004", None, "row 2 is NULL", None),
    (BUILD.format("", "SELECT image, 'x' AS label FROM pictures"), "22000", None, "all 24 rows have the same label", "two classes"),
    (BUILD.format("", "SELECT * FROM pictures WHERE false"), "P0002", None, "no rows", None),
    (BUILD.format("", "SELECT 'gone.png' AS image, label FROM pictures"), "58P01", None, "gone.png", None),
    (BUILD.format("", "SELECT '../../etc/passwd' AS image, label FROM pictures"), "58P01", None, "../../etc/passwd", None),
    ("BUILD MODEL colours USING MobileNet_V2 AS SELECT * FROM pictures", "42710", None, "already exists", "overwrite"),
    ("BUILD colours USING MobileNet_V2 MODEL", "42601", "colours", "expected MODEL", None),
    ("BUILD MODEL m USING MobileNet_V2 SELECT 1", "42601", "SELECT 1", "expected AS", "follows AS"),
    ("BUILD MODEL m USING MobileNet_V2 AS DELETE FROM pictures", "42601", "DELETE", "expected a query", None),
    ("PREDICT colours AS SELECT 1", "42601", "colours", "expected USING", None),
    ("PREDICT USING colours AS", "42601", "", "a query after AS", None),
    ("PREDICT USING colours OPTIONS (image_col 'x') AS SELECT 1", "42601", "'x'", 'expected "="', None),
    ("PREDICT USING colours OPTIONS (cache='no') AS SELECT '' AS image", "22023", "'no'", "must be TRUE or FALSE", None),
    ("PREDICT USING colours AS SELECT 'abc", "42601", "'abc", "unterminated quoted string", None),
    ("PREDICT USING colours AS SELECT id FROM pictures", "42703", None, 'no column "image" or "image_path"', "image_col"),
    ("PREDICT USING colours AS SELECT image, 1 AS predicted FROM pictures", "42701", None, '"predicted"', "result_col"),
    ("PREDICT USING colours AS SELECT image FROM pictures WHERE nope", "42703", "nope", 'column "nope" does not exist', None),
    ("PREDICT USING colours AS SELECT '/etc/passwd' AS image", "58P01", None, "/etc/passwd", None),
    ("PREDICT USING colours AS SELECT '/etc/absent' AS image", "58P01", None, "/etc/absent", None),
    ("PREDICT USING colours AS SELECT 'readme.txt' AS image", "22P03", None, "readme.txt", None),
    ("PREDICT USING colours AS SELECT '\\xff00'::bytea AS image", "22P03", None, "image", None),
    (
        "CREATE RULE r AS ON DELETE TO kept DO INSTEAD SELECT * FROM (PREDICT USING colours AS TABLE pictures) t",
        "0A000",
        "PREDICT",
        "inside CREATE RULE",
        "CREATE TABLE",
    ),
    ("FIT MODEL better USING nobody AS SELECT * FROM pictures", "42704", "nobody", 'model "nobody" does not exist', "LIST MODEL"),
    ("FIT MODEL better USING colours@7 AS SELECT * FROM pictures", "42704", "colours@7", 'model "colours@7" does not exist', None),
    ("FIT MODEL better@2 USING colours AS SELECT 1", "42601", "USING", "versions are counted by the database", "overwrite"),
    ("FIT MODEL colours USING colours AS SELECT * FROM pictures", "42710", None, "already exists", "overwrite"),
    ("FIT MODEL better USING colours OPTIONS (input_size=64) AS TABLE pictures", "22023", "64", "is 32 for model", "BUILD a new model"),
    ("FIT MODEL better USING colours OPTIONS (color='GRAY') AS TABLE pictures", "22023", "'GRAY'", "is RGB for model", "Leave it out"),
    ("FIT MODEL better USING colours OPTIONS (pretrained=true) AS TABLE pictures", "42601", "pretrained", "of FIT MODEL", None),
    ("FIT MODEL better USING colours AS SELECT image, 'x' AS label FROM pictures", "22000", None, "have the same label", "two classes"),
    ("FIT MODEL better USING colours AS PREDICT USING colours AS TABLE pictures", "0A000", "PREDICT", "inside the query of", None),
    ("EXPLAIN BUILD MODEL m USING MobileNet_V2 AS SELECT 1", "0A000", "BUILD", "BUILD MODEL is not supported inside EXPLAIN", "by itself"),
    ("PREPARE p AS FIT MODEL m USING colours AS SELECT 1", "0A000", "FIT", "FIT MODEL is not supported inside PREPARE", "by itself"),
    ("DECLARE c CURSOR FOR LIST MODEL", "0A000", "LIST", "LIST MODEL is not supported inside DECLARE", "FROM (LIST MODEL …)"),
    ("CREATE TABLE t AS DESCRIBE MODEL colours", "0A000", "DESCRIBE", "is not supported inside CREATE", "in parentheses"),
    ('DROP MODEL ""', "42601", '""', "zero-length delimited identifier", None),
    ("UPLOAD MODEL m FROM 'abc", "42601", "'abc", "unterminated quoted string", None),
    ("FIT better USING colours MODEL", "42601", "better", "expected MODEL", "Write FIT MODEL name USING model"),
]


@pytest.fixture(scope="module")
def text_file(image_root: object) -> Iterator[None]:
    path = image_root / "readme.txt"  # type: ignore[operator]
    path.write_text("not an image")
    yield
    path.unlink()


@pytest.mark.usefixtures("text_file")
@pytest.mark.parametrize("prepared", [False, True], ids=["simple", "prepared"])
@pytest.mark.parametrize(("statement", "sqlstate", "place", "message", "hint"), CASES, ids=[case[0][:60] for case in CASES])
def test_bad_input(
    connection: psycopg.Connection[tuple[object, ...]],
    statement: str,
    sqlstate: str,
    place: str | None,
    message: str,
    hint: str | None,
    prepared: bool,
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(sql.SQL(statement), prepare=prepared)  # type: ignore[arg-type]
    diag = caught.value.diag
    assert (diag.sqlstate, diag.severity) == (sqlstate, "ERROR")
    assert message in (diag.message_primary or "")
    assert hint is None or hint in (diag.message_hint or "")
    if place is not None:
        assert diag.statement_position == str(statement.rindex(place) + 1 if place else len(statement) + 1)
    assert connection.execute("SELECT 'usable'").fetchone() == ("usable",)


def test_a_path_outside_tells_nothing_about_what_is_there(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    texts = set()
    for path in ("/etc/passwd", "/etc/absent"):
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(f"PREDICT USING colours AS SELECT '{path}' AS image")
        diag = caught.value.diag
        texts.add(tuple(str(part).replace(path, "…") for part in (diag.message_primary, diag.message_detail, diag.message_hint)))
    assert len(texts) == 1


def test_without_the_schema(proxy: object, empty_database: object) -> None:
    address = proxy.url(empty_database)  # type: ignore[attr-defined]
    with psycopg.connect(address, autocommit=True) as connection:
        statements = ("LIST MODEL", "DROP MODEL m", "PREDICT USING m AS SELECT '' AS image", "SELECT 1; LIST MODEL; SELECT 2")
        for statement in statements:
            with pytest.raises(psycopg.errors.InvalidSchemaName) as caught:
                connection.execute(statement)
            assert "thanoproxy init" in (caught.value.diag.message_hint or "")


def test_errors_of_the_catalogue_are_about_the_clients_text_alone(url: str, module_database: Database) -> None:
    """Neither a place in a query that the client never wrote, nor the functions of ours that it was in."""
    with psycopg.connect(url, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.UndefinedObject) as caught:
            connection.execute("DROP MODEL nobody")
        assert caught.value.diag.context is None
        role, _ = module_database.add_role(attributes="NOLOGIN")
        connection.execute(sql.SQL("REVOKE USAGE ON SCHEMA thanosql FROM PUBLIC; SET ROLE {}").format(sql.Identifier(role)))
        try:
            for statement in (
                "LIST MODEL",
                "PREDICT USING colours AS SELECT '' AS image",
                BUILD.format("", "SELECT '' AS image, '' AS label"),
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="schema thanosql") as refused:
                    connection.execute(sql.SQL(statement))
                assert refused.value.diag.statement_position is None
        finally:
            connection.execute("RESET ROLE; GRANT USAGE ON SCHEMA thanosql TO PUBLIC")


@pytest.mark.parametrize("encoding", ["LATIN1", "UTF8"])
def test_a_name_is_found_in_any_encoding(url: str, encoding: str) -> None:
    with psycopg.connect(url, autocommit=True, client_encoding=encoding) as connection:
        with pytest.raises(psycopg.errors.UndefinedObject) as caught:
            connection.execute('DESCRIBE MODEL "Café"')
        assert caught.value.diag.message_primary == 'model "Café" does not exist'
        assert caught.value.diag.statement_position == "16"


PLANTED = """
    CREATE SCHEMA thanosql;
    CREATE TABLE victims (name text);
    GRANT USAGE ON SCHEMA thanosql TO PUBLIC;
    CREATE FUNCTION thanosql.steal() RETURNS text LANGUAGE sql AS 'INSERT INTO victims VALUES (current_user) RETURNING name';
    CREATE VIEW thanosql.models AS
    SELECT thanosql.steal() AS name, '' AS class_name, now() AS last_updated_utc, 1 AS version, '' AS owner, '' AS architecture,
        '' AS classes, 1 AS images, '' AS metrics, '' AS options, 1 AS size_bytes, '' AS versions, '' AS privileges;
    CREATE PROCEDURE thanosql.drop_model(model_name text, if_exists boolean) LANGUAGE sql AS 'SELECT thanosql.steal()';
    CREATE VIEW thanosql.gate AS SELECT thanosql.steal() AS action, '' AS payload;
"""


@pytest.mark.parametrize("prepared", [False, True], ids=["simple", "prepared"])
def test_a_schema_of_that_name_that_somebody_else_made(proxy: Proxy, empty_database: Database, prepared: bool) -> None:
    """Who may make schemas could have others, a superuser too, run what is in there."""
    role, url = empty_database.add_role()
    empty_database.execute(f"ALTER DATABASE {empty_database.name} OWNER TO {role}")
    with psycopg.connect(url) as mallory:
        mallory.execute(PLANTED)
    with psycopg.connect(proxy.url(empty_database), autocommit=True) as connection:
        for statement in ("LIST MODEL", "DROP MODEL m", "PREDICT USING m AS SELECT '' AS image", "SELECT * FROM (LIST MODEL) m"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match=f'Role "{role}" made it'):
                connection.execute(sql.SQL(statement), prepare=prepared)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="is not the proxy's"):
            connection.execute("BEGIN; LIST MODEL; COMMIT")
        assert connection.execute("SELECT * FROM public.victims").fetchall() == []
        connection.execute("BEGIN")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("LIST MODEL")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            connection.execute("SELECT 1")


def test_a_damaged_artifact(proxy: object, connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Weights that are not what their name says are refused, and nothing else is affected."""
    connection.execute(BUILD.format(", seed=11", ROWS).replace("MODEL m ", "MODEL fragile "))
    row = connection.execute("SELECT artifact FROM thanosql.model_version WHERE name = 'fragile'").fetchone()
    assert row is not None
    folder = proxy.server.settings.artifacts.folder  # type: ignore[attr-defined]
    manifest = json.loads((folder / "manifests" / f"{row[0]}.json").read_text())
    (weights,) = [path for path in (folder / "weights").iterdir() if path.stem in json.dumps(manifest)]
    content = weights.read_bytes()
    weights.chmod(0o600)
    weights.write_bytes(content[:-1] + bytes((content[-1] ^ 1,)))
    with pytest.raises(psycopg.errors.DataCorrupted):
        connection.execute("PREDICT USING fragile AS TABLE pictures")
    assert len(connection.execute("PREDICT USING colours AS TABLE pictures").fetchall()) == 24
    weights.write_bytes(content)
    assert len(connection.execute("PREDICT USING fragile AS TABLE pictures").fetchall()) == 24


def test_a_row_that_names_another_models_weights(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Users may write catalogue rows; without the proxy's seal such a row is worth nothing."""
    connection.execute(BUILD.format(", seed=12", ROWS).replace("MODEL m ", "MODEL sealed "))
    connection.execute(
        "ALTER TABLE thanosql.model_version DISABLE TRIGGER USER; "
        "UPDATE thanosql.model_version SET artifact = (SELECT artifact FROM thanosql.model_version WHERE name = 'colours') "
        "WHERE name = 'sealed'"
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="seal"):
        connection.execute("PREDICT USING sealed AS TABLE pictures")


@pytest.mark.parametrize(
    "statement",
    [
        "PREDICT USING colours AS SELECT * FROM pictures WHERE id < $1",
        "SELECT * FROM (PREDICT USING colours AS SELECT * FROM pictures) t WHERE id < $1",
        "SELECT 1; PREDICT USING colours AS SELECT * FROM pictures WHERE id < $1",
        "DROP MODEL IF EXISTS nobody; PREDICT USING colours AS SELECT * FROM pictures WHERE id < $1",
    ],
)
def test_a_simple_query_has_no_parameters(connection: psycopg.Connection[tuple[object, ...]], statement: str) -> None:
    with pytest.raises(psycopg.errors.UndefinedParameter, match=r"there is no parameter \$1") as caught:
        connection.execute(sql.SQL(statement))  # type: ignore[arg-type]
    assert caught.value.diag.statement_position == str(statement.index("$1") + 1)


def test_parameters_are_counted_as_postgresql_counts_them(url: str) -> None:
    statement = "SELECT * FROM (PREDICT USING colours AS SELECT * FROM pictures WHERE id < $1) t"
    with RawClient(url) as raw:
        raw.send(parse(statement, "mine"), bind((b"1", b"2"), "", "mine"), SYNC)
        kind, body = raw.read()
        while kind != "E":
            kind, body = raw.read()
    assert b'bind message supplies 2 parameters, but prepared statement "mine" requires 1' in body
    assert b"C08P01" in body
