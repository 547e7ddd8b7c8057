"""The life of a model through the proxy: tags, protocols, transactions, roles, and what PREDICT makes of it."""

from __future__ import annotations

from collections.abc import Iterator

import asyncpg
import psycopg
import pytest
from psycopg import errors, sql

from tests.databases import Database
from tests.rawwire import RawClient, bind, parse
from tests.serving import Proxy
from thanoproxy.wire.messages import SYNC, describe, execute, query

Connection = psycopg.Connection[tuple[object, ...]]

BUILD = (
    "BUILD MODEL {} USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32, epochs=1, augment=false, "
    "validation_split=0, overwrite=true) AS SELECT image, {} FROM pictures ORDER BY id"
)
PREDICT = "SELECT DISTINCT left(predicted, 2) FROM (PREDICT USING {} AS SELECT image FROM pictures LIMIT 2)"


@pytest.fixture(scope="module")
def pets(url: str) -> None:
    """Model `pets`, whose labels begin with the number of the version: v1red, v2red, …"""
    with psycopg.connect(url, autocommit=True) as connection:
        for version in (1, 2):
            connection.execute(BUILD.format("pets", f"'v{version}' || label AS label"))


@pytest.fixture
def block(url: str, pets: None) -> Iterator[Connection]:
    """A connection in a transaction block that is rolled back in the end."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("BEGIN")
        yield connection
        connection.execute("ROLLBACK")


@pytest.fixture
def raw(url: str, pets: None) -> Iterator[RawClient]:
    with RawClient(url) as client:
        yield client


def used(connection: Connection, model: str = "pets") -> str:
    """The version that a PREDICT used, as its labels tell."""
    [(label,)] = connection.execute(PREDICT.format(model)).fetchall()  # type: ignore[arg-type]
    return str(label)


CHANGES = [
    ("ALTER MODEL pets RENAME TO animals", "ALTER MODEL"),
    ("ALTER MODEL pets OWNER TO CURRENT_USER", "ALTER MODEL"),
    ("ALTER MODEL IF EXISTS pets SET VERSION 1", "ALTER MODEL"),
    ("ALTER MODEL IF EXISTS nothing SET VERSION 1", "ALTER MODEL"),
    ("DROP MODEL pets@1", "DROP MODEL"),
    ("DELETE MODEL IF EXISTS pets@9 CASCADE", "DROP MODEL"),
    ("DROP MODEL pets RESTRICT", "DROP MODEL"),
    ("GRANT USAGE ON MODEL pets, colours TO PUBLIC, CURRENT_USER", "GRANT"),
    ("REVOKE ALL PRIVILEGES ON MODEL pets FROM PUBLIC", "REVOKE"),
]


@pytest.mark.parametrize(("statement", "tag"), CHANGES)
class TestTags:
    def test_simple(self, raw: RawClient, statement: str, tag: str) -> None:
        raw.talk(query(b"BEGIN"))
        replies = [reply for reply in raw.talk(query(statement.encode())) if not reply.startswith("N")]
        assert replies == [f"C[{tag}]", "Z[T]"]
        raw.talk(query(b"ROLLBACK"))

    def test_extended(self, raw: RawClient, statement: str, tag: str) -> None:
        raw.talk(query(b"BEGIN"))
        sent = (parse(statement), describe(b"S", b""), bind(), describe(b"P", b""), execute(b""), SYNC)
        replies = [reply for reply in raw.talk(*sent) if not reply.startswith("N")]
        assert replies == ["1", "t[]", "n", "2", "n", f"C[{tag}]", "Z[T]"]
        raw.talk(query(b"ROLLBACK"))

    def test_in_a_string_of_statements(self, raw: RawClient, statement: str, tag: str) -> None:
        replies = [reply for reply in raw.talk(query(f"BEGIN; {statement}; ROLLBACK".encode())) if not reply.startswith("N")]
        assert replies == ["C[BEGIN]", f"C[{tag}]", "C[ROLLBACK]", "Z[I]"]

    @pytest.mark.parametrize("prepared", [False, True], ids=["simple", "prepared"])
    def test_read_only(self, url: str, pets: None, statement: str, tag: str, prepared: bool) -> None:
        with psycopg.connect(url) as connection:
            connection.read_only = True
            with pytest.raises(errors.ReadOnlySqlTransaction, match=f"cannot execute {tag} in a read-only transaction"):
                connection.execute(sql.SQL(statement), prepare=prepared)


class TestPredict:
    def test_uses_the_current_version(self, block: Connection) -> None:
        assert used(block) == "v2"
        block.execute("ALTER MODEL pets SET VERSION 1")
        assert used(block) == "v1"
        assert used(block, "pets@2") == "v2"
        block.execute(BUILD.format("pets", "'v3' || label AS label"))  # type: ignore[arg-type]
        assert used(block) == "v3"
        block.execute("DROP MODEL pets@3")
        assert used(block) == "v2"

    def test_under_another_name(self, block: Connection) -> None:
        block.execute('ALTER MODEL pets RENAME TO "Animals"')
        assert used(block, '"Animals"') == "v2"
        assert used(block, '"Animals"@1') == "v1"
        with pytest.raises(errors.UndefinedObject, match='model "pets" does not exist'):
            used(block)

    def test_after_savepoints(self, block: Connection) -> None:
        block.execute("SAVEPOINT s")
        block.execute("ALTER MODEL pets SET VERSION 1")
        block.execute("ALTER MODEL pets RENAME TO animals")
        assert used(block, "animals") == "v1"
        block.execute("ROLLBACK TO s")
        assert used(block) == "v2"

    def test_by_another_role(self, proxy: Proxy, url: str, pets: None, module_database: Database) -> None:
        role, role_url = module_database.add_role()
        module_database.execute(f"GRANT SELECT ON pictures TO {role}")
        _, _, password, *_ = role_url.replace("@", ":").split(":")
        with (
            psycopg.connect(url, autocommit=True) as owner,
            psycopg.connect(proxy.url(module_database, role, password), autocommit=True) as user,
        ):
            with pytest.raises(errors.UndefinedObject):
                used(user)
            owner.execute(f"GRANT USAGE ON MODEL pets TO {role}")
            assert used(user) == "v2"
            with pytest.raises(errors.InsufficientPrivilege, match="must be owner of model pets"):
                user.execute("ALTER MODEL pets RENAME TO mine")
            owner.execute(f"REVOKE USAGE ON MODEL pets FROM {role}")
            with pytest.raises(errors.UndefinedObject):
                used(user)
            owner.execute("BEGIN")
            owner.execute(f"ALTER MODEL pets OWNER TO {role}")
            owner.execute(f"SET ROLE {role}")
            assert used(owner) == "v2"
            owner.execute(BUILD.format("pets", "'v3' || label AS label"))  # type: ignore[arg-type]
            assert (used(owner), used(owner, "pets@1")) == ("v3", "v1")
            owner.execute("ROLLBACK")

    def test_set_role_is_obeyed(self, block: Connection, module_database: Database) -> None:
        role, _ = module_database.add_role("group", attributes="NOLOGIN")
        block.execute(f"SET LOCAL ROLE {role}")
        block.execute("SAVEPOINT s")
        with pytest.raises(errors.UndefinedObject, match='model "pets" does not exist'):
            block.execute("DROP MODEL pets")
        block.execute("ROLLBACK TO s")
        assert block.execute("SHOW MODELS").fetchall() == []


class TestDescribe:
    def test_rows(self, block: Connection) -> None:
        cursor = block.execute("DESCRIBE MODEL pets@1")
        assert [column.name for column in cursor.description or ()] == ["property", "value"]
        shown = dict(cursor.fetchall())
        assert shown["version"] == "1 (current is 2)"
        assert shown["classes"] == "v1blue, v1red"
        assert str(shown["epoch 1"]).startswith("loss ")
        assert shown["option input_size"] == "32"
        assert shown["metric training_images"] == "24"

    def test_the_hash_of_the_data_can_be_computed_in_sql(self, block: Connection) -> None:
        computed = """
            SELECT encode(sha256(string_agg(
                int4send(octet_length(convert_to(image, 'UTF8'))) || convert_to(image, 'UTF8') ||
                int4send(octet_length(convert_to('v2' || label, 'UTF8'))) || convert_to('v2' || label, 'UTF8'), '' ORDER BY id)), 'hex')
            FROM pictures
        """
        described = "SELECT value FROM (DESCRIBE MODEL pets) WHERE property = 'data sha256'"
        assert block.execute(described).fetchall() == block.execute(computed).fetchall()

    def test_in_the_extended_protocol(self, raw: RawClient) -> None:
        replies = raw.talk(parse("DESCRIBE MODEL pets"), describe(b"S", b""), bind(), execute(b"", 1), SYNC)
        assert replies == ["1", "t[]", "T[property:25/0,value:25/0]", "2", "D[name,pets]", "s", "Z[I]"]

    async def test_in_larger_sql_with_parameters(self, url: str, pets: None) -> None:
        connection = await asyncpg.connect(url)
        query_text = "SELECT m.name, d.value FROM (DESCRIBE MODEL pets) d, (SHOW MODELS) m WHERE d.property = $1 AND m.name = 'pets'"
        assert await connection.fetch(query_text, "architecture") == [("pets", "MobileNet_V2")]
        await connection.close()

    def test_read_only(self, block: Connection) -> None:
        block.execute("SET TRANSACTION READ ONLY")
        assert len(block.execute("DESCRIBE MODEL pets").fetchall()) > 10
        assert len(block.execute("SHOW MODELS").fetchall()) == 2


MISTAKES = [
    # statement, SQLSTATE, the text its position points at, message, hint
    ("ALTER MODEL nobody RENAME TO m", "42704", "nobody", 'model "nobody" does not exist', "LIST MODEL"),
    ("ALTER MODEL pets RENAME TO colours", "42710", "colours", 'model "colours" already exists', None),
    ("ALTER MODEL pets RENAME TO pets", "42710", None, 'model "pets" already exists', None),
    ("ALTER MODEL pets OWNER TO nobody", "42704", "nobody", 'role "nobody" does not exist', None),
    ("ALTER MODEL pets SET VERSION 7", "42704", "7", 'model "pets@7" does not exist', "Versions of model pets are: 1, 2."),
    ("DROP MODEL pets@7", "42704", "pets@7", 'model "pets@7" does not exist', "1, 2"),
    ("DROP MODEL nobody", "42704", "nobody", 'model "nobody" does not exist', "LIST MODEL"),
    ("DESCRIBE MODEL pets@7", "42704", "pets@7", 'model "pets@7" does not exist', "1, 2"),
    ("DESCRIBE MODEL nobody", "42704", "nobody", 'model "nobody" does not exist', "LIST MODEL"),
    ("GRANT USAGE ON MODEL pets, nobody TO PUBLIC", "42704", "nobody", 'model "nobody" does not exist', "LIST MODEL"),
    ("GRANT USAGE ON MODEL pets TO PUBLIC, nobody", "42704", "nobody", 'role "nobody" does not exist', None),
    ("REVOKE USAGE ON MODEL pets FROM nobody", "42704", "nobody", 'role "nobody" does not exist', None),
    ("GRANT SELECT ON MODEL pets TO PUBLIC", "0LP01", "SELECT", "invalid privilege type SELECT", "USAGE"),
    ("ALTER MODEL pets RENAME n", "42601", "n", "expected TO", "RENAME TO new_name"),
]


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize("way", ["simple", "prepared", "string"])
@pytest.mark.parametrize(("statement", "sqlstate", "place", "message", "hint"), MISTAKES, ids=[case[0] for case in MISTAKES])
def test_mistakes(
    connection: Connection, statement: str, sqlstate: str, place: str | None, message: str, hint: str | None, way: str
) -> None:
    before = connection.execute("LIST MODEL").fetchall()
    text = f"SELECT 1; {statement}; SELECT 2" if way == "string" else statement
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(sql.SQL(text), prepare=way == "prepared")  # type: ignore[arg-type]
    diag = caught.value.diag
    assert (diag.sqlstate, diag.severity) == (sqlstate, "ERROR")
    assert message in (diag.message_primary or "")
    assert hint is None or hint in (diag.message_hint or "")
    if place is not None:
        start = text.index(statement)
        assert diag.statement_position == str(start + statement.rindex(place) + 1)
    assert connection.execute("LIST MODEL").fetchall() == before


def test_skipping_is_told(connection: Connection, pets: None) -> None:
    notices: list[str | None] = []
    connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    for statement in ("DROP MODEL IF EXISTS no@1", "ALTER MODEL IF EXISTS no RENAME TO m", "DROP MODEL IF EXISTS pets@9 CASCADE"):
        connection.execute(statement)  # type: ignore[arg-type]
    skipped = "does not exist, skipping"
    assert notices == [f'model "no" {skipped}', f'model "no" {skipped}', f'model "pets@9" {skipped}']


@pytest.mark.parametrize(
    "statement", [change[0] for change in CHANGES if "IF EXISTS" not in change[0]] + ["DESCRIBE MODEL m", "SHOW MODELS"]
)
def test_without_the_schema(proxy: Proxy, empty_database: Database, statement: str) -> None:
    with psycopg.connect(proxy.url(empty_database), autocommit=True) as connection, pytest.raises(errors.InvalidSchemaName) as caught:
        connection.execute(statement)  # type: ignore[arg-type]
    assert "thanoproxy init" in (caught.value.diag.message_hint or "")


def test_tables_and_settings_called_model(connection: Connection, module_database: Database) -> None:
    role, _ = module_database.add_role()
    for statement in (
        "CREATE TABLE model (a int)",
        f"GRANT SELECT ON model TO {role}",
        f"REVOKE ALL ON MODEL FROM {role}",
        "DROP TABLE model",
    ):
        connection.execute(statement)  # type: ignore[arg-type]
    connection.execute("SET models.kind = 'x'")
    assert connection.execute("SHOW models.kind").fetchall() == [("x",)]
