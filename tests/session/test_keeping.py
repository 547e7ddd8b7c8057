"""Materialized views with predictions: made, refreshed with as little work as possible, and left alone by who may not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asyncpg
import psycopg
import pytest
from psycopg import errors

from tests.databases import Database
from tests.serving import COLOURS, Proxy
from tests.session.asking import Connection, fetched, text

QUERY = "PREDICT USING colours AS SELECT id, image FROM photos"


def run(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.execute(text(statement))


def predicted(connection: Connection) -> int:
    """How many predictions are kept that were made since this was last asked."""
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS seen (at timestamptz)")
    (found,) = fetched(
        connection, "SELECT count(*) FROM thanosql.prediction WHERE predicted_at > coalesce((SELECT max(at) FROM seen), '-infinity')"
    )
    connection.execute("INSERT INTO seen SELECT max(predicted_at) FROM thanosql.prediction")
    return int(found[0])


@pytest.fixture
def tables(connection: Connection) -> Iterator[Connection]:
    """Table `photos` with ten rows, and nothing kept."""
    run(connection, "CREATE TABLE photos AS SELECT id, image FROM pictures WHERE id < 10")
    yield connection
    connection.execute("ROLLBACK")
    run(connection, "DROP TABLE photos CASCADE", "DELETE FROM thanosql.prediction")


def same(connection: Connection, view: str = "mv") -> bool:
    """Whether the view's rows are what its query gives now."""
    return fetched(connection, f"TABLE {view} ORDER BY id") == fetched(connection, f"SELECT * FROM ({QUERY}) t ORDER BY id")


class TestRefresh:
    def test_it_holds_what_the_query_gives(self, tables: Connection) -> None:
        cursor = tables.execute(text(f"CREATE MATERIALIZED VIEW mv AS {QUERY}"))
        assert cursor.statusmessage == "SELECT 10"
        assert same(tables)
        assert predicted(tables) == 10

    def test_what_is_known_is_not_predicted_again(self, tables: Connection) -> None:
        run(tables, f"CREATE MATERIALIZED VIEW mv AS {QUERY}")
        predicted(tables)
        run(tables, "REFRESH MATERIALIZED VIEW mv")
        assert predicted(tables) == 0
        run(tables, "INSERT INTO photos SELECT id, image FROM pictures WHERE id BETWEEN 8 AND 12", "REFRESH MATERIALIZED VIEW public.mv")
        assert predicted(tables) == 3
        assert same(tables)

    def test_a_file_that_was_written_anew_is_predicted_again(self, proxy: Proxy, tables: Connection) -> None:
        copied = proxy.images / "changing.png"
        copied.write_bytes((proxy.images / "blue" / "0.png").read_bytes())
        run(tables, "INSERT INTO photos VALUES (100, 'changing.png')", f"CREATE MATERIALIZED VIEW mv AS {QUERY}")
        predicted(tables)
        copied.write_bytes((proxy.images / "red" / "0.png").read_bytes())
        run(tables, "REFRESH MATERIALIZED VIEW mv")
        assert predicted(tables) == 1
        assert fetched(tables, "SELECT predicted FROM mv WHERE id = 100") == fetched(
            tables, "SELECT predicted FROM mv WHERE image = 'red/0.png'"
        )
        copied.unlink()
        with pytest.raises(errors.UndefinedFile, match=r"changing\.png"):
            tables.execute("REFRESH MATERIALIZED VIEW mv")

    def test_a_null_image_has_a_null_prediction(self, tables: Connection) -> None:
        run(tables, "INSERT INTO photos VALUES (-1, NULL)", f"CREATE MATERIALIZED VIEW mv AS {QUERY}")
        assert fetched(tables, "SELECT predicted FROM mv WHERE id = -1") == [(None,)]

    def test_a_new_version_of_the_model_predicts_all(self, tables: Connection) -> None:
        build = (
            "BUILD MODEL fading USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32, epochs=1, augment=false, "
            "validation_split=0, overwrite=true, seed={seed}) AS SELECT image, label FROM pictures"
        )
        run(tables, build.format(seed=1), "CREATE MATERIALIZED VIEW mv AS PREDICT USING fading AS SELECT id, image FROM photos")
        predicted(tables)
        run(tables, build.format(seed=2), "REFRESH MATERIALIZED VIEW mv")
        assert predicted(tables) == 10
        assert fetched(tables, "SELECT count(*) FROM thanosql.prediction") == [(10,)]
        run(tables, "REFRESH MATERIALIZED VIEW mv")
        assert predicted(tables) == 0
        run(tables, "DROP MATERIALIZED VIEW mv", "DROP MODEL fading")

    def test_empty_at_first_and_concurrently(self, tables: Connection) -> None:
        run(tables, f"CREATE MATERIALIZED VIEW mv AS {QUERY} WITH NO DATA")
        assert predicted(tables) == 0
        with pytest.raises(errors.ObjectNotInPrerequisiteState):
            tables.execute("SELECT * FROM mv")
        run(tables, "REFRESH MATERIALIZED VIEW mv", "CREATE UNIQUE INDEX ON mv (id)", "DELETE FROM photos WHERE id = 3")
        run(tables, "REFRESH MATERIALIZED VIEW CONCURRENTLY mv")
        assert same(tables)
        run(tables, "REFRESH MATERIALIZED VIEW mv WITH NO DATA")

    def test_it_obeys_rollback(self, tables: Connection) -> None:
        run(tables, f"CREATE MATERIALIZED VIEW mv AS {QUERY}", "BEGIN", "INSERT INTO photos VALUES (10, 'red/9.png')")
        run(tables, "REFRESH MATERIALIZED VIEW mv")
        assert fetched(tables, "SELECT count(*) FROM mv") == [(11,)]
        run(tables, "ROLLBACK")
        assert fetched(tables, "SELECT count(*) FROM mv") == [(10,)]
        assert fetched(tables, "SELECT count(*) FROM thanosql.prediction") == [(10,)]

    def test_groups_and_predictions_of_predictions(self, tables: Connection) -> None:
        inner = "PREDICT USING colours OPTIONS (result_col='first') AS SELECT id, image FROM photos"
        query = f"SELECT first, predicted, count(*) AS id FROM (PREDICT USING colours AS {inner}) t GROUP BY 1, 2"
        run(tables, f"CREATE MATERIALIZED VIEW mv AS {query}")
        assert fetched(tables, "TABLE mv ORDER BY 1, 2") == fetched(tables, f"SELECT * FROM ({query}) t ORDER BY 1, 2")
        predicted(tables)
        run(tables, "REFRESH MATERIALIZED VIEW mv")
        assert predicted(tables) == 0

    def test_over_a_view_with_predictions_and_with_common_table_expressions(self, tables: Connection) -> None:
        run(tables, f"CREATE VIEW saved_photos AS {QUERY}")
        query = "WITH few AS (SELECT * FROM saved_photos WHERE id < 5) SELECT * FROM few"
        run(tables, f"CREATE MATERIALIZED VIEW mv AS {query}", "REFRESH MATERIALIZED VIEW mv")
        assert fetched(tables, "TABLE mv ORDER BY id") == fetched(tables, f"{query} ORDER BY id")
        query = "WITH few AS (SELECT * FROM photos WHERE id < 4), p AS (PREDICT USING colours AS TABLE few) SELECT * FROM p"
        run(tables, f"CREATE MATERIALIZED VIEW m2 AS {query}", "REFRESH MATERIALIZED VIEW m2")
        assert fetched(tables, "TABLE m2 ORDER BY id") == fetched(tables, f"{query} ORDER BY id")

    def test_images_in_the_table(self, proxy: Proxy, tables: Connection) -> None:
        for number, name in enumerate(COLOURS):
            data = (proxy.images / name / "0.png").read_bytes()
            tables.execute("CREATE TABLE IF NOT EXISTS blobs (id int, image bytea)")
            tables.execute("INSERT INTO blobs VALUES (%s, %s)", (number, data))
        run(tables, "CREATE MATERIALIZED VIEW mv AS PREDICT USING colours AS TABLE blobs")
        assert fetched(tables, "TABLE mv ORDER BY id") == fetched(
            tables, "SELECT * FROM (PREDICT USING colours AS TABLE blobs) ORDER BY id"
        )
        predicted(tables)
        run(tables, "REFRESH MATERIALIZED VIEW mv")
        assert predicted(tables) == 0
        run(tables, "DROP TABLE blobs CASCADE")

    def test_embeddings(self, tables: Connection) -> None:
        query = "CONVERT USING colours AS SELECT id, image FROM photos"
        run(tables, f"CREATE MATERIALIZED VIEW mv AS {query}")
        assert fetched(tables, "TABLE mv ORDER BY id") == fetched(tables, f"SELECT * FROM ({query}) t ORDER BY id")
        predicted(tables)
        run(tables, "REFRESH MATERIALIZED VIEW mv")
        assert predicted(tables) == 0

    def test_prepared(self, url: str, tables: Connection) -> None:
        async def both() -> None:
            connection = await asyncpg.connect(url)
            try:
                for statement in (f"CREATE MATERIALIZED VIEW mv AS {QUERY}", "REFRESH MATERIALIZED VIEW mv"):
                    prepared = await connection.prepare(statement)
                    await prepared.fetch()
            finally:
                await connection.close()

        asyncio.run(both())
        assert same(tables)

    def test_other_materialized_views_are_none_of_our_business(self, tables: Connection) -> None:
        run(tables, "CREATE MATERIALIZED VIEW mv AS SELECT * FROM photos", "REFRESH MATERIALIZED VIEW mv")
        with pytest.raises(errors.UndefinedTable):
            tables.execute("REFRESH MATERIALIZED VIEW nobody")
        with pytest.raises(errors.FeatureNotSupported, match="is not a materialized view"):
            tables.execute("REFRESH MATERIALIZED VIEW photos")
        run(tables, "CREATE MATERIALIZED VIEW level AS SELECT id, current_setting('transaction_isolation') AS level FROM photos")
        run(tables, "REFRESH MATERIALIZED VIEW level")
        assert fetched(tables, "SELECT DISTINCT level FROM level") == [("read committed",)]
        tables.execute("BEGIN")
        with pytest.raises(errors.UndefinedTable):
            tables.execute("REFRESH MATERIALIZED VIEW nobody")
        with pytest.raises(errors.InFailedSqlTransaction):
            tables.execute("REFRESH MATERIALIZED VIEW mv")


class TestRefused:
    def test_a_missing_image_leaves_the_old_rows(self, tables: Connection) -> None:
        run(tables, f"CREATE MATERIALIZED VIEW mv AS {QUERY}", "INSERT INTO photos VALUES (99, 'gone.png')")
        with pytest.raises(errors.UndefinedFile, match=r"gone\.png"):
            tables.execute("REFRESH MATERIALIZED VIEW mv")
        assert fetched(tables, "SELECT count(*) FROM mv") == [(10,)]

    def test_errors_of_the_query_point_into_it(self, tables: Connection) -> None:
        statement = "CREATE MATERIALIZED VIEW mv AS PREDICT USING colours AS SELECT id, nope FROM photos"
        with pytest.raises(errors.UndefinedColumn) as caught:
            tables.execute(text(statement))
        assert caught.value.diag.statement_position == str(statement.index("nope") + 1)

    def test_what_is_no_prediction_of_a_row(self, tables: Connection) -> None:
        with pytest.raises(errors.FeatureNotSupported, match="EVALUATE"):
            tables.execute("CREATE MATERIALIZED VIEW mv AS EVALUATE USING colours AS SELECT image, label FROM pictures")

    def test_in_a_string_of_several(self, tables: Connection) -> None:
        with pytest.raises(errors.FeatureNotSupported, match="cannot share a string"):
            tables.execute(text(f"SELECT 1; CREATE MATERIALIZED VIEW mv AS {QUERY}"))

    def test_the_owner_refreshes_and_nobody_else(self, tables: Connection, module_database: Database) -> None:
        name, _ = module_database.add_role("keeper", attributes="")
        run(tables, f"CREATE MATERIALIZED VIEW mv AS {QUERY}", f"ALTER MATERIALIZED VIEW mv OWNER TO {name}")
        with pytest.raises(errors.InsufficientPrivilege, match="must be owner of materialized view mv"):
            tables.execute("REFRESH MATERIALIZED VIEW mv")

    def test_the_server_alone_refreshes_what_is_known(self, tables: Connection, module_database: Database) -> None:
        run(tables, f"CREATE MATERIALIZED VIEW mv AS {QUERY}")
        with psycopg.connect(module_database.url, autocommit=True) as direct:
            direct.execute("REFRESH MATERIALIZED VIEW mv")
            direct.execute("INSERT INTO photos VALUES (10, 'red/9.png')")
            with pytest.raises(errors.FeatureNotSupported, match="thanoproxy"):
                direct.execute("REFRESH MATERIALIZED VIEW mv")

    def test_what_one_role_keeps_no_other_sees(self, tables: Connection, module_database: Database) -> None:
        run(tables, f"CREATE MATERIALIZED VIEW mv AS {QUERY}")
        _, url = module_database.add_role("stranger")
        with psycopg.connect(url, autocommit=True) as stranger:
            assert stranger.execute("SELECT count(*) FROM thanosql.prediction").fetchone() == (0,)
            with pytest.raises(errors.InsufficientPrivilege):
                stranger.execute("INSERT INTO thanosql.prediction VALUES ('postgres', 's', '', 'a', '', '{}')")


def test_where_there_is_no_catalogue_a_refresh_is_postgresqls(proxy: Proxy, empty_database: Database) -> None:
    with psycopg.connect(proxy.url(empty_database), autocommit=True) as connection:
        connection.execute("CREATE MATERIALIZED VIEW mv AS SELECT count(*) AS n FROM pg_class")
        connection.execute("REFRESH MATERIALIZED VIEW mv")
        with pytest.raises(errors.UndefinedTable, match='"nobody"'):
            connection.execute("REFRESH MATERIALIZED VIEW nobody")
