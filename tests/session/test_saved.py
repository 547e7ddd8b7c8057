"""Views that hold predictions: made, read, renamed, refused, and forgotten again.

What must come out is what the same text gives with the view's query written in its place.
"""

from __future__ import annotations

import asyncio
import subprocess
import time

import asyncpg
import psycopg
import pytest
from psycopg import errors

from tests.databases import Database
from tests.serving import Proxy, running_proxy
from tests.session.asking import Connection, fetched, text

VIEW = "SELECT id, predicted, label FROM (PREDICT USING colours AS SELECT id, image, label FROM pictures) t WHERE id < 9"


@pytest.fixture(scope="module")
def url(url: str) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(text(f"CREATE VIEW saved AS {VIEW}"))
        connection.execute("CREATE VIEW plain AS PREDICT USING colours AS SELECT id, image FROM pictures")
        connection.execute("CREATE VIEW counted AS SELECT predicted, count(*) AS n FROM saved GROUP BY predicted")
        connection.execute(text('CREATE VIEW "Grün ""x" AS SELECT * FROM plain'))
    return url


READ: dict[str, str] = {
    "from": "SELECT * FROM {saved} WHERE id < %s ORDER BY id",
    "with an alias": "SELECT s.id, s.predicted FROM {saved} AS s WHERE s.id < %s ORDER BY s.id",
    "with an alias without AS": "SELECT s.id FROM {saved} s WHERE s.id < %s ORDER BY s.id",
    "with column aliases": "SELECT a FROM {saved} AS s (a, b) WHERE a < %s ORDER BY a",
    "qualified columns": "SELECT saved.id, saved.* FROM {saved} WHERE saved.id < %s ORDER BY saved.id",
    "join": "SELECT s.id, p.image FROM pictures p JOIN {saved} s USING (id) WHERE p.id < %s ORDER BY 1",
    "left join": "SELECT p.id, s.predicted FROM pictures p LEFT JOIN {saved} AS s ON s.id = p.id WHERE p.id < %s + 5 ORDER BY 1",
    "comma": "SELECT s.id FROM pictures p, {saved} s WHERE s.id = p.id AND p.id < %s ORDER BY 1",
    "join in parentheses": "SELECT s.id FROM ({saved} s JOIN pictures p USING (id)) WHERE p.id < %s ORDER BY 1",
    "itself": "SELECT a.id, b.predicted FROM {saved} a JOIN {saved} b ON a.id = b.id + 1 WHERE a.id < %s ORDER BY 1",
    "only": "SELECT id FROM ONLY {saved} WHERE id < %s ORDER BY 1",
    "in": "SELECT id FROM pictures WHERE id IN (SELECT id FROM {saved}) AND id < %s ORDER BY 1",
    "cte": "WITH s AS (SELECT * FROM {saved}) SELECT * FROM s WHERE id < %s ORDER BY id",
    "cte of the same name": "WITH saved AS (SELECT * FROM {saved} WHERE id > 2) SELECT * FROM saved WHERE id < %s ORDER BY id",
    "union": "SELECT id FROM {saved} WHERE id < %s UNION ALL SELECT 100 ORDER BY 1",
    "query of a predict": "SELECT id, again FROM (PREDICT USING colours OPTIONS (result_col='again') AS "
    "SELECT p.id, image, predicted FROM pictures p JOIN {saved} s USING (id)) t WHERE id < %s ORDER BY id",
    "beside a predict": "SELECT s.id, t.predicted FROM {saved} s JOIN (PREDICT USING colours AS SELECT id, image FROM pictures) t "
    "USING (id) WHERE s.id < %s ORDER BY 1",
    "count": "SELECT count(*) FROM {saved} WHERE id < %s",
}


@pytest.mark.parametrize("position", READ)
class TestReading:
    def test_simple(self, connection: Connection, position: str) -> None:
        statement, written = (READ[position].replace("%s", "5").format(saved=saved) for saved in ("saved", f"({VIEW}) AS saved"))
        if "saved} s" in READ[position] or "saved} AS" in READ[position] or "saved} a" in READ[position]:
            written = READ[position].replace("%s", "5").format(saved=f"({VIEW})")
        assert fetched(connection, statement) == fetched(connection, written.replace("ONLY ", ""))

    def test_extended(self, connection: Connection, position: str) -> None:
        plain = READ[position].replace("%s", "4").format(saved="saved")
        assert fetched(connection, READ[position].format(saved="saved"), 4) == fetched(connection, plain)

    def test_prepared(self, url: str, position: str) -> None:
        statement = READ[position].replace("%s", "$1").format(saved="public.saved saved" if "saved." in READ[position] else "saved")

        async def run() -> list[list[tuple[object, ...]]]:
            connection = await asyncpg.connect(url)
            try:
                prepared = await connection.prepare(statement)
                return [[tuple(row) for row in await prepared.fetch(n)] for n in (2, 5)]
            finally:
                await connection.close()

        with psycopg.connect(url, autocommit=True) as connection:
            plain = READ[position].format(saved="saved")
            assert asyncio.run(run()) == [fetched(connection, plain, n) for n in (2, 5)]


class TestTheCommandTable:
    def test_table(self, connection: Connection) -> None:
        assert fetched(connection, "TABLE counted ORDER BY 1") == fetched(connection, "SELECT * FROM counted ORDER BY 1")

    def test_copy(self, connection: Connection) -> None:
        rows = fetched(connection, "SELECT predicted, n::text FROM counted ORDER BY 1")
        with connection.cursor().copy("COPY (TABLE counted ORDER BY 1) TO STDOUT") as copy:
            assert [tuple(row) for row in copy.rows()] == rows

    def test_a_table_of_it(self, connection: Connection) -> None:
        with connection.transaction(force_rollback=True):
            connection.execute("CREATE TABLE of_it AS SELECT * FROM saved")
            assert fetched(connection, "SELECT * FROM of_it ORDER BY id") == fetched(connection, "SELECT * FROM saved ORDER BY id")

    def test_a_cursor(self, connection: Connection) -> None:
        with connection.transaction():
            connection.execute("DECLARE c CURSOR FOR SELECT id FROM saved ORDER BY id")
            assert fetched(connection, "FETCH 3 FROM c") == [(0,), (1,), (2,)]

    def test_prepare_and_execute(self, connection: Connection) -> None:
        connection.execute("PREPARE p AS SELECT id FROM saved WHERE id < $1 ORDER BY id")
        assert fetched(connection, "EXECUTE p (2)") == [(0,), (1,)]
        connection.execute("DEALLOCATE p")

    def test_several_statements(self, url: str) -> None:
        done = subprocess.run(
            ["psql", "-XAtq", url, "-c", "BEGIN READ WRITE; SELECT n > 0 FROM counted LIMIT 1; SELECT 2; COMMIT"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.split() == ["t", "2"]

    def test_quoted_names_and_others_schemas(self, connection: Connection) -> None:
        assert fetched(connection, 'SELECT count(*) FROM "Grün ""x"') == [(24,)]
        assert fetched(connection, 'SELECT count(predicted) FROM public."Grün ""x" g') == [(24,)]

    def test_read_only(self, connection: Connection) -> None:
        with connection.transaction():
            connection.execute("SET TRANSACTION READ ONLY")
            assert len(fetched(connection, "SELECT * FROM saved")) == 9

    def test_explain_shows_how_little_is_predicted(self, connection: Connection) -> None:
        lines = "\n".join(row[0] for row in fetched(connection, "EXPLAIN ANALYZE SELECT * FROM plain LIMIT 3"))
        assert "rows=3 batches=1" in lines
        assert "never executed" in "\n".join(row[0] for row in fetched(connection, "EXPLAIN ANALYZE SELECT count(*) FROM plain"))


class TestMaking:
    def test_it_is_a_view_like_any_other(self, connection: Connection) -> None:
        found = fetched(
            connection,
            "SELECT c.relkind::text, a.attname, a.atttypid::regtype::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
            "WHERE c.oid = 'saved'::regclass AND a.attnum > 0 ORDER BY a.attnum",
        )
        assert found == [("v", "id", "integer"), ("v", "predicted", "text"), ("v", "label", "text")]
        assert {str(name) for (name,) in fetched(connection, "SELECT view::text FROM thanosql.saved_view")} >= {"saved", "plain", "counted"}

    def test_it_obeys_rollback(self, connection: Connection) -> None:
        with connection.transaction(force_rollback=True):
            connection.execute("CREATE VIEW gone AS PREDICT USING colours AS SELECT id, image FROM pictures WHERE id < 2")
            assert len(fetched(connection, "SELECT * FROM gone")) == 2
        with pytest.raises(errors.UndefinedTable):
            connection.execute("SELECT * FROM gone")

    def test_drop_and_replace(self, connection: Connection) -> None:
        connection.execute("CREATE VIEW mine AS PREDICT USING colours AS SELECT id, image FROM pictures WHERE id < 2")
        connection.execute("CREATE OR REPLACE VIEW mine AS PREDICT USING colours AS SELECT id, image FROM pictures WHERE id < 3")
        assert len(fetched(connection, "SELECT * FROM mine")) == 3
        connection.execute("DROP VIEW mine")
        connection.execute("CREATE TABLE mine (id int)")
        assert fetched(connection, "SELECT * FROM mine") == []
        connection.execute("VACUUM mine")
        connection.execute("DROP TABLE mine")

    def test_it_follows_what_is_renamed(self, connection: Connection) -> None:
        with connection.transaction(force_rollback=True):
            before = fetched(connection, "SELECT * FROM counted ORDER BY 1")
            connection.execute("ALTER TABLE pictures RENAME COLUMN label TO other")
            connection.execute("ALTER TABLE pictures RENAME TO photos")
            connection.execute("ALTER VIEW saved RENAME TO kept")
            assert fetched(connection, "SELECT * FROM counted ORDER BY 1") == before
            assert len(fetched(connection, "SELECT label FROM kept")) == 9

    def test_column_names_temporary_and_options(self, connection: Connection) -> None:
        connection.execute(
            "CREATE TEMP VIEW passing (a, b) WITH (security_barrier) AS "
            "SELECT id, predicted FROM (PREDICT USING colours AS SELECT id, image FROM pictures)"
        )
        assert len(fetched(connection, "SELECT a, b FROM passing WHERE a < 4")) == 4
        connection.execute("DROP VIEW passing")

    def test_of_embeddings_and_of_metrics(self, connection: Connection) -> None:
        embedded = "CONVERT USING colours AS SELECT id, image FROM pictures"
        measured = "EVALUATE USING colours AS SELECT image, label FROM pictures"
        with connection.transaction(force_rollback=True):
            connection.execute(text(f"CREATE VIEW embedded AS {embedded}"))
            connection.execute(text(f"CREATE VIEW measured AS SELECT metric, score * 100 AS percent FROM ({measured})"))
            assert fetched(connection, "SELECT embedding[1:3] FROM embedded ORDER BY id LIMIT 2") == fetched(
                connection, f"SELECT embedding[1:3] FROM ({embedded}) t ORDER BY id LIMIT 2"
            )
            assert fetched(connection, "SELECT percent FROM measured WHERE metric = 'accuracy'") == fetched(
                connection, f"SELECT score * 100 FROM ({measured}) t WHERE metric = 'accuracy'"
            )

    def test_as_a_prepared_statement(self, url: str) -> None:
        async def run() -> int:
            connection = await asyncpg.connect(url)
            try:
                prepared = await connection.prepare("CREATE VIEW later AS PREDICT USING colours AS SELECT id, image FROM pictures")
                await prepared.fetch()
                return len(await connection.fetch("SELECT * FROM later"))
            finally:
                await connection.execute("DROP VIEW later")
                await connection.close()

        assert asyncio.run(run()) == 24

    @pytest.mark.parametrize(
        ("statement", "error", "at"),
        [
            ("CREATE VIEW bad AS PREDICT USING nobody AS SELECT id, image FROM pictures", errors.UndefinedObject, "nobody"),
            ("CREATE VIEW bad AS PREDICT USING colours AS SELECT id, nope FROM pictures", errors.UndefinedColumn, "nope"),
            ("CREATE VIEW bad AS PREDICT USING colours AS SELECT id FROM pictures", errors.UndefinedColumn, None),
            ("CREATE VIEW bad AS PREDICT USING colours AS SELECT image, 1 AS predicted FROM pictures", errors.DuplicateColumn, None),
            (
                "CREATE VIEW bad WITH (security_invoker = off) AS PREDICT USING colours AS SELECT id, image FROM pictures",
                errors.FeatureNotSupported,
                "security_invoker",
            ),
            ("CREATE VIEW saved AS PREDICT USING colours AS SELECT id, image FROM pictures", errors.DuplicateTable, None),
        ],
    )
    def test_what_cannot_be_read_is_not_made(
        self, connection: Connection, statement: str, error: type[psycopg.Error], at: str | None
    ) -> None:
        with pytest.raises(error) as caught:
            connection.execute(text(statement))
        assert caught.value.diag.statement_position == (None if at is None else str(statement.index(at) + 1))
        assert connection.execute("SELECT 1").fetchone() == (1,)


class TestErrors:
    @pytest.mark.parametrize(
        ("statement", "error", "at"),
        [
            ("SELECT nope FROM saved", errors.UndefinedColumn, "nope"),
            ("SELECT * FROM saved WHERE nope = 1", errors.UndefinedColumn, "nope"),
            ("SELECT * FROM saved WHERE", errors.SyntaxError, ""),
            ("SELECT * FROM counted c JOIN saved s ON s.nope = c.n", errors.UndefinedColumn, "s.nope"),
        ],
    )
    def test_positions_are_the_clients(self, connection: Connection, statement: str, error: type[psycopg.Error], at: str) -> None:
        with pytest.raises(error) as caught:
            connection.execute(text(statement))
        assert caught.value.diag.statement_position == str(statement.index(at) + 1 if at else len(statement) + 1)

    def test_without_the_proxy_it_says_so(self, url: str, module_database: Database) -> None:
        with psycopg.connect(module_database.url, autocommit=True) as direct, pytest.raises(errors.FeatureNotSupported, match="thanoproxy"):
            direct.execute("SELECT count(*) FROM saved")

    def test_inside_a_function_it_says_so(self, connection: Connection) -> None:
        with pytest.raises(errors.FeatureNotSupported, match="thanoproxy"):
            connection.execute("DO $$ BEGIN PERFORM count(*) FROM saved; END $$")

    def test_a_failed_block_stays_one(self, connection: Connection) -> None:
        connection.execute("BEGIN")
        with pytest.raises(errors.DivisionByZero):
            connection.execute("SELECT 1 / 0")
        with pytest.raises(errors.InFailedSqlTransaction):
            connection.execute("SELECT * FROM saved")
        connection.execute("ROLLBACK")


class TestRights:
    def test_it_takes_the_right_to_read_the_view_and_what_it_reads(self, proxy: Proxy, url: str, module_database: Database) -> None:
        name, direct = module_database.add_role("reader")
        password = direct.split(":")[2].split("@")[0]
        with psycopg.connect(proxy.url(module_database, name, password), autocommit=True) as reader:

            def refused(error: type[psycopg.Error], message: str) -> None:
                with pytest.raises(error, match=message):
                    reader.execute("SELECT * FROM saved")

            refused(errors.InsufficientPrivilege, "permission denied for view saved")
            module_database.execute(f"GRANT SELECT ON saved TO {name}")
            refused(errors.UndefinedObject, 'model "colours" does not exist')
            module_database.execute(
                f"INSERT INTO thanosql.model_grant (name, owner, grantee) SELECT name, owner, '{name}' FROM thanosql.model"
            )
            refused(errors.InsufficientPrivilege, "permission denied for table pictures")
            module_database.execute(f"GRANT SELECT ON pictures TO {name}")
            assert len(fetched(reader, "SELECT * FROM saved")) == 9

    def test_a_view_that_somebody_else_forged_is_not_run(self, connection: Connection) -> None:
        connection.execute(
            "CREATE VIEW forged AS SELECT q.id, thanosql.saved('PREDICT USING colours AS SELECT 1) q; DROP TABLE pictures; "
            "SELECT * FROM (PREDICT USING colours AS', 'predicted', NULL::text) AS predicted FROM (SELECT id, image FROM pictures) q"
        )
        connection.execute("SELECT pg_notify('thanosql', '')")  # the proxy did not make it, and would hear of it later
        time.sleep(0.5)
        with pytest.raises(errors.InvalidObjectDefinition, match=r"thanosql\.saved"):
            connection.execute("SELECT * FROM forged")
        connection.execute("DROP VIEW forged")
        assert fetched(connection, "SELECT count(*) FROM pictures") == [(24,)]


class TestOthers:
    def test_another_proxy_knows_it_soon(self, proxy: Proxy, url: str, module_database: Database) -> None:
        artifacts = proxy.server.settings.artifacts.folder
        with (
            running_proxy(module_database.url, [proxy.images], artifacts) as second,
            psycopg.connect(second.url(module_database), autocommit=True) as there,
            psycopg.connect(url, autocommit=True) as here,
        ):
            assert fetched(there, "SELECT count(*) FROM saved") == [(9,)]
            here.execute("CREATE VIEW fresh AS PREDICT USING colours AS SELECT id, image FROM pictures")
            time.sleep(0.5)
            assert len(fetched(there, "SELECT * FROM fresh WHERE id < 3")) == 3
            here.execute("DROP VIEW fresh")

    def test_the_database_can_be_dropped(self, proxy: Proxy, module_database: Database) -> None:
        with psycopg.connect(proxy.url(module_database), autocommit=True) as connection:
            connection.execute(text("CREATE DATABASE copied TEMPLATE template1"))
            other = proxy.url(module_database).rpartition("/")[0] + "/copied"
            with psycopg.connect(other, autocommit=True) as inside:
                inside.execute("SELECT 1 FROM pg_class LIMIT 1")
            connection.execute("DROP DATABASE copied")
