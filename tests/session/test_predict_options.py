"""The options of PREDICT: what else it tells of an image, and what becomes of one that cannot be read, wherever a PREDICT may stand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg import errors

from tests.rawwire import RawClient, bind, parse
from tests.serving import Proxy
from tests.session.asking import Connection, fetched, text
from tests.session.test_nested import left_behind
from thanoproxy.wire.messages import SYNC, describe, execute
from thanoproxy.workers import jobs

TEXT, FLOAT8, TEXT_ARRAY, FLOAT8_ARRAY, JSONB = 25, 701, 1009, 1022, 3802
Row = tuple[Any, ...]


def predict(options: str, query: str = "SELECT id, image FROM pictures ORDER BY id") -> str:
    return f"PREDICT USING colours OPTIONS ({options}) AS {query}"


@pytest.fixture(scope="module")
def ranked(proxy: Proxy, url: str) -> list[list[tuple[str, float]]]:
    """What the workers themselves say of the pictures, in the order of their ids: labels and probabilities, best first."""
    with psycopg.connect(url) as connection:
        images = [str(image) for (image,) in connection.execute("SELECT image FROM pictures ORDER BY id").fetchall()]
        ((artifact,),) = connection.execute("SELECT artifact FROM thanosql.model_version WHERE name = 'colours'").fetchall()
    request = jobs.Predict("ranked", str(artifact), list(images), top_k=2)
    reply = asyncio.run_coroutine_threadsafe(proxy.server.pool.predict(request), proxy.loop).result(60)
    labels = ("blue", "red")
    return [
        [(labels[of], score) for of, score in zip(classes or (), scores or (), strict=True)]
        for classes, scores in zip(reply.classes, reply.scores, strict=True)
    ]


def near(wanted: float) -> Any:
    """The last digits depend on what else is in a batch."""
    return pytest.approx(wanted, rel=1e-3)


Wanted = Callable[[list[tuple[str, float]]], Row]
OPTIONS: dict[str, tuple[list[tuple[str, int]], Wanted]] = {
    "score=true": ([("predicted", TEXT), ("score", FLOAT8)], lambda r: (r[0][0], near(r[0][1]))),
    "score=false": ([("predicted", TEXT)], lambda r: (r[0][0],)),
    "probabilities=true, result_col='label'": (
        [("label", TEXT), ("probabilities", JSONB)],
        lambda r: (r[0][0], {label: near(p) for label, p in r}),
    ),
    "top_k=2": (
        [("predicted", TEXT_ARRAY), ("score", FLOAT8_ARRAY)],
        lambda r: ([label for label, _ in r], [near(p) for _, p in r]),
    ),
    "top_k=1, score=false": ([("predicted", TEXT_ARRAY)], lambda r: ([r[0][0]],)),
    "top_k=50, probabilities=true": (
        [("predicted", TEXT_ARRAY), ("score", FLOAT8_ARRAY), ("probabilities", JSONB)],
        lambda r: ([label for label, _ in r], [near(p) for _, p in r], {label: near(p) for label, p in r}),
    ),
    "threshold=1.0, score=true": ([("predicted", TEXT), ("score", FLOAT8)], lambda r: (None, near(r[0][1]))),
    "threshold=0, score=true": ([("predicted", TEXT), ("score", FLOAT8)], lambda r: (r[0][0], near(r[0][1]))),
    "threshold=1, top_k=2": ([("predicted", TEXT_ARRAY), ("score", FLOAT8_ARRAY)], lambda r: (None, [near(p) for _, p in r])),
}

WAYS: dict[str, tuple[str, ...]] = {
    "alone": ("{p}",),
    "in FROM": ("SELECT * FROM ({p}) t ORDER BY id",),
    "in a CTE": ("WITH p AS ({p}) SELECT * FROM p ORDER BY id",),
    "in a read-only transaction": ("BEGIN READ ONLY", "SELECT * FROM ({p}) t ORDER BY id"),
    "alone in a read-only transaction": ("BEGIN READ ONLY", "{p}"),
    "stored": ("BEGIN", "CREATE TABLE stored AS {p}", "TABLE stored ORDER BY id"),
    "through a view": ("BEGIN", "CREATE VIEW seen AS {p}", "SELECT * FROM seen ORDER BY id"),
    "through a materialized view": ("BEGIN", "CREATE MATERIALIZED VIEW held AS {p}", "SELECT * FROM held ORDER BY id"),
    "through a cursor": ("BEGIN", "DECLARE c CURSOR FOR {p}", "FETCH ALL FROM c"),
    "of a PREDICT": ("PREDICT USING colours OPTIONS (result_col='again') AS {p}",),
}


def described(cursor: psycopg.Cursor[Row]) -> list[tuple[str, int]]:
    return [(column.name, column.type_code) for column in cursor.description or ()]


@pytest.fixture
def connection(url: str) -> Iterator[Connection]:
    with psycopg.connect(url, autocommit=True) as opened:
        yield opened
        opened.execute("ROLLBACK")
        opened.execute("DELETE FROM thanosql.prediction")


@pytest.mark.parametrize("options", OPTIONS)
class TestColumns:
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
    def test_every_way(self, connection: Connection, ranked: list[list[tuple[str, float]]], options: str, way: str, binary: bool) -> None:
        columns, wanted = OPTIONS[options]
        *before, statement = (
            part.format(p=predict(options).replace("ORDER BY id", "" if "view" in way else "ORDER BY id")) for part in WAYS[way]
        )
        for part in before:
            connection.execute(text(part))
        cursor = connection.cursor(binary=binary and "FETCH" not in statement)
        found = cursor.execute(text(statement)).fetchall()
        count = 2 + len(columns)
        assert described(cursor)[2:count] == columns
        assert [row[2:count] for row in found] == [wanted(one) for one in ranked]

    async def test_asyncpg_prepared(self, url: str, ranked: list[list[tuple[str, float]]], options: str) -> None:
        connection = await asyncpg.connect(url)
        await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        _, wanted = OPTIONS[options]
        query = predict(options, "SELECT id, image FROM pictures WHERE id < $1 ORDER BY id")
        try:
            for statement in (query, f"SELECT * FROM ({query}) t"):
                prepared = await connection.prepare(statement)
                assert [tuple(row)[2:] for row in await prepared.fetch(7)] == [wanted(one) for one in ranked[:7]]
        finally:
            await connection.close()

    def test_in_a_string_of_several(self, connection: Connection, ranked: list[list[tuple[str, float]]], options: str) -> None:
        columns, wanted = OPTIONS[options]
        cursor = connection.execute(text(f"SELECT 1; {predict(options)}; SELECT * FROM ({predict(options)}) t ORDER BY id"))
        _, alone, inside = ((described(results), results.fetchall()) for results in cursor.results())
        for names, rows in (alone, inside):
            assert names[2:] == columns
            assert [row[2:] for row in rows] == [wanted(one) for one in ranked]

    def test_a_null_image(self, connection: Connection, options: str) -> None:
        columns, _ = OPTIONS[options]
        query = predict(options, "SELECT NULL AS image")
        nulls = [(None,) * (1 + len(columns))]
        assert fetched(connection, query) == nulls
        assert fetched(connection, f"SELECT * FROM ({query}) t") == nulls

    def test_it_is_described_before_anything_has_run(self, url: str, options: str) -> None:
        columns, _ = OPTIONS[options]
        missing = predict(options, "SELECT 'gone.png' AS image")
        with RawClient(url) as client:
            for statement in (missing, f"SELECT * FROM ({missing}) t"):
                (shown,) = (reply for reply in client.talk(parse(statement), describe(b"S", b""), SYNC) if reply.startswith("T"))
                assert shown == "T[" + ",".join(f"{name}:{oid}/0" for name, oid in [("image", TEXT), *columns]) + "]"


class TestText:
    """What a client gets as text is what PostgreSQL writes of the same values."""

    def test_scores_and_probabilities(self, connection: Connection) -> None:
        query = predict("top_k=2, probabilities=true")
        columns = "predicted::text, score::text, probabilities::text"
        theirs = fetched(connection, f"SELECT {columns} FROM ({query}) t ORDER BY id")
        result = connection.execute(text(query)).pgresult
        assert result is not None
        ours = [tuple((result.get_value(row, column) or b"").decode() for column in (2, 3, 4)) for row in range(result.ntuples)]
        assert ours == theirs

    def test_a_score_is_the_probability_of_its_label(self, connection: Connection) -> None:
        query = f"SELECT count(*) FROM ({predict('score=true, probabilities=true')}) t WHERE score = (probabilities ->> predicted)::float8"
        assert fetched(connection, query) == [(24,)]

    @pytest.mark.parametrize("formats", [(0, 1, 0, 1, 0), (1, 0, 1, 0, 1), (1,), ()])
    def test_each_column_has_the_format_that_bind_names(self, url: str, formats: tuple[int, ...]) -> None:
        with RawClient(url) as client:
            query = predict("top_k=1, probabilities=true", "SELECT id, image FROM pictures WHERE id = 1")
            replies = client.talk(parse(query), bind(formats=formats), describe(b"P", b""), execute(b""), SYNC)
        shown = next(reply for reply in replies if reply.startswith("T"))
        assert [int(part[-1]) for part in shown[2:-1].split(",")] == list((formats or (0,)) * (1 if len(formats) == 5 else 5))
        assert replies[-2:] == ["C[SELECT 1]", "Z[I]"]


REFUSED = [
    ("top_k=0", "SELECT '' AS image", errors.InvalidParameterValue, "at least 1", None),
    ("top_k=2.5", "SELECT '' AS image", errors.InvalidParameterValue, "whole number", None),
    ("threshold=1.5", "SELECT '' AS image", errors.InvalidParameterValue, "at most 1", None),
    ("threshold=-0.1", "SELECT '' AS image", errors.InvalidParameterValue, "at least 0", None),
    ("score=1", "SELECT '' AS image", errors.InvalidParameterValue, "TRUE or FALSE", None),
    ("on_error='ignore'", "SELECT '' AS image", errors.InvalidParameterValue, "'fail' or 'null' or 'skip'", None),
    ("score=true", "SELECT '' AS image, 1 AS score", errors.DuplicateColumn, 'already has a column "score"', "score AS"),
    ("top_k=2", "SELECT '' AS image, 1 AS score", errors.DuplicateColumn, 'already has a column "score"', "score AS"),
    ("probabilities=true", "SELECT '' AS image, 1 AS probabilities", errors.DuplicateColumn, '"probabilities"', "probabilities AS"),
    ("score=true, result_col='score'", "SELECT '' AS image", errors.DuplicateColumn, "two added columns", "result_col"),
    ("score=true, result_col='x'", "SELECT '' AS image, 1 AS x", errors.DuplicateColumn, 'already has a column "x"', "result_col"),
]


@pytest.mark.parametrize(("options", "query", "kind", "words", "hint"), REFUSED)
def test_mistakes(connection: Connection, options: str, query: str, kind: type[errors.Error], words: str, hint: str | None) -> None:
    for statement in (predict(options, query), f"SELECT * FROM ({predict(options, query)}) t"):
        with pytest.raises(kind) as caught:
            connection.execute(text(statement))
        assert words in str(caught.value)
        assert hint is None or hint in (caught.value.diag.message_hint or "")


# What cannot be read.

BROKEN = "SELECT id, CASE WHEN id IN (3, 10, 17) THEN 'gone.png' WHEN id = 5 THEN NULL ELSE image END AS image FROM pictures ORDER BY id"
LOST = {3, 10, 17}
SOME_WAYS = {name: way for name, way in WAYS.items() if "cursor" not in name and "materialized" not in name and "PREDICT" not in name}


class Told:
    """The warnings that a connection was told."""

    def __init__(self, connection: Connection) -> None:
        self.warnings: list[str] = []
        connection.add_notice_handler(self._take)

    def _take(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.severity == "WARNING":
            assert diagnostic.sqlstate == "01000"
            self.warnings.append(diagnostic.message_primary or "")


class TestOnError:
    def test_fail_is_the_default(self, connection: Connection) -> None:
        for query in (f"PREDICT USING colours AS {BROKEN}", predict("on_error='FAIL'", BROKEN)):
            with pytest.raises(errors.UndefinedFile, match=r"gone\.png"):
                connection.execute(text(query))

    @pytest.mark.parametrize("way", [*SOME_WAYS, "through a materialized view", "through a cursor"])
    def test_null(self, connection: Connection, way: str) -> None:
        told = Told(connection)
        *before, statement = (part.format(p=predict("on_error='null', score=true", BROKEN)) for part in WAYS[way])
        for part in before:
            connection.execute(text(part))
        found = fetched(connection, statement)
        assert [row[0] for row in found] == list(range(24))
        assert {row[0] for row in found if row[2] is None} == {row[0] for row in found if row[3] is None} == {*LOST, 5}
        (warning,) = told.warnings
        assert "rows have NULLs" in warning
        if "materialized" in way:  # the same image is read once
            assert warning.startswith("1 of 21 images could not be read")
        else:
            assert warning.startswith("3 of 24 images could not be read")
            assert warning.endswith('the first is that of row 4: image file "gone.png" is not available')

    @pytest.mark.parametrize("way", SOME_WAYS)
    def test_skip(self, connection: Connection, way: str) -> None:
        told = Told(connection)
        *before, statement = (part.format(p=predict("on_error='skip'", BROKEN)) for part in WAYS[way])
        for part in before:
            connection.execute(text(part))
        cursor = connection.execute(text(statement))
        found = cursor.fetchall()
        assert cursor.statusmessage == "SELECT 21"
        assert [row[0] for row in found] == [id_ for id_ in range(24) if id_ not in LOST]
        assert [row[0] for row in found if row[2] is None] == [5]
        (warning,) = told.warnings
        assert warning.startswith("3 of 24 images could not be read, and their rows are left out; the first is that of row 4: ")

    def test_in_a_string_of_several(self, connection: Connection) -> None:
        told = Told(connection)
        skip = predict("on_error='skip'", BROKEN)
        cursor = connection.execute(text(f"{skip}; SELECT * FROM ({skip}) t; SELECT 1"))
        assert [(results.statusmessage, len(results.fetchall())) for results in cursor.results()] == [
            ("SELECT 21", 21),
            ("SELECT 21", 21),
            ("SELECT 1", 1),
        ]
        assert len(told.warnings) == 2

    def test_which_rows_there_are_the_images_tell(self, connection: Connection) -> None:
        """So they are read even where nobody wants the prediction, and before a limit counts."""
        skip = predict("on_error='skip'", BROKEN)
        assert fetched(connection, f"SELECT count(*) FROM ({skip}) t") == [(21,)]
        assert fetched(connection, f"SELECT count(*) FROM ({skip}) t WHERE id < 5") == [(4,)]
        assert fetched(connection, f"SELECT id FROM ({skip}) t ORDER BY id LIMIT 4") == [(0,), (1,), (2,), (4,)]

    def test_tags_count_what_is_there(self, connection: Connection) -> None:
        skip = predict("on_error='skip'", BROKEN)
        connection.execute("BEGIN")
        for statement, tag in (
            (f"CREATE TABLE made AS {skip}", "SELECT 21"),
            (f"INSERT INTO made {skip}", "INSERT 0 21"),
        ):
            assert connection.execute(text(statement)).statusmessage == tag
        with connection.cursor().copy(text(f"COPY ({skip}) TO STDOUT")) as copy:
            assert len(list(copy.rows())) == 21

    def test_where_all_is_well_nothing_is_said(self, connection: Connection) -> None:
        told = Told(connection)
        for policy in ("null", "skip"):
            assert len(fetched(connection, predict(f"on_error='{policy}'"))) == 24
        assert told.warnings == []

    def test_damaged_images_of_bytea(self, connection: Connection) -> None:
        query = predict("on_error='null'", r"SELECT '\xff00'::bytea AS image")
        assert fetched(connection, query) == [(b"\xff\0", None)]

    def test_convert(self, connection: Connection) -> None:
        told = Told(connection)
        for policy, count in (("null", 24), ("skip", 21)):
            query = predict(f"on_error='{policy}'", BROKEN).replace("PREDICT", "CONVERT")
            assert len(fetched(connection, query)) == len(fetched(connection, f"SELECT * FROM ({query}) t")) == count
        assert len(told.warnings) == 4

    def test_null_with_a_row_limit(self, url: str) -> None:
        """The warning comes once, at the end, and counts all of them."""
        with RawClient(url) as client:
            replies = client.talk(parse(predict("on_error='null'", BROKEN)), bind(), execute(b"", 20), execute(b"", 20), SYNC)
        kinds = "".join(reply[0] for reply in replies)
        assert kinds == "12" + "D" * 20 + "s" + "D" * 4 + "NCZ"
        assert "3 of 24 images" in replies[-3]


SKIP = predict("on_error='skip'")


class TestSkipRefused:
    @pytest.mark.parametrize(
        ("statements", "words"),
        [
            (("BEGIN", f"DECLARE c CURSOR FOR {SKIP}"), "with a cursor"),
            ((f"BEGIN; DECLARE c CURSOR FOR SELECT * FROM ({SKIP}) t",), "with a cursor"),
            ((f"CREATE MATERIALIZED VIEW held AS {SKIP}",), "with a materialized view"),
        ],
    )
    def test_where_rows_are_counted_on(self, connection: Connection, statements: tuple[str, ...], words: str) -> None:
        *before, statement = statements
        for other in before:
            connection.execute(text(other))
        with pytest.raises(errors.FeatureNotSupported, match=words) as caught:
            connection.execute(text(statement))
        assert int(caught.value.diag.statement_position or 0) == statement.index("'skip'") + 1
        assert "on_error='null'" in (caught.value.diag.message_hint or "")

    async def test_row_limits(self, url: str) -> None:
        connection = await asyncpg.connect(url)
        try:
            async with connection.transaction():
                cursor = await connection.cursor(SKIP)
                with pytest.raises(asyncpg.FeatureNotSupportedError, match="row limit"):
                    await cursor.fetch(5)
            assert len(await connection.fetch(SKIP)) == 24
            async with connection.transaction():
                cursor = await connection.cursor(f"SELECT * FROM ({SKIP}) t")
                assert len(await cursor.fetch(5)) == 5
        finally:
            await connection.close()

    def test_nothing_is_left_behind(self, connection: Connection) -> None:
        fetched(connection, f"SELECT * FROM ({SKIP}) t")
        assert left_behind(connection) == []
