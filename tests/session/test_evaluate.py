"""EVALUATE: its answer is scikit-learn's about the stored predictions, alone and at every position where a query may stand."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import numpy as np
import psycopg
import pytest
from psycopg import errors
from sklearn import metrics as sklearn

from tests.rawwire import RawClient, bind, parse
from tests.serving import Proxy
from tests.session.asking import Connection, fetched, text
from tests.session.test_nested import left_behind
from tests.session.test_stopping import cancel_soon
from thanoproxy.wire.messages import SYNC, describe, execute
from thanoproxy.workers import jobs

ALL = "EVALUATE USING colours AS SELECT id, image, label FROM mixed"
METRICS = ["accuracy", "macro_precision", "macro_recall", "macro_f1", "log_loss", "calibration_error", "images", "null_images"]
COUNTED = ("images", "null_images")


@pytest.fixture(scope="module")
def url(url: str) -> str:
    """`mixed` has wrong labels and one that the model does not know."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE mixed AS SELECT id, image, CASE WHEN id = 4 THEN 'grün' WHEN id % 5 = 0 THEN 'red' ELSE label END AS label "
            "FROM pictures"
        )
        connection.execute("CREATE TABLE stored AS PREDICT USING colours AS SELECT id, image, label FROM mixed")
    return url


@pytest.fixture(scope="module")
def wanted(proxy: Proxy, url: str) -> dict[str, float]:
    """What scikit-learn says."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT image, label, predicted FROM stored ORDER BY id").fetchall()
        artifacts = connection.execute("SELECT artifact FROM thanosql.model_version WHERE name = 'colours'").fetchall()
    images, labels, predicted = ([str(value) for value in column] for column in zip(*rows, strict=True))
    request = jobs.Predict("probabilities", str(artifacts[0][0]), list(images), top_k=2)
    reply = asyncio.run_coroutine_threadsafe(proxy.server.pool.predict(request), proxy.loop).result(60)
    probabilities = np.zeros((len(rows), 3))
    for row, (classes, scores) in enumerate(zip(reply.classes, reply.scores, strict=True)):
        for of, score in zip(classes or (), scores or (), strict=True):
            probabilities[row, (0, 2)[of]] = score  # blue, red; nothing for grün
    probabilities /= probabilities.sum(1, keepdims=True)  # they are of float32
    averages = {"average": "macro", "zero_division": 0}
    return {
        "accuracy": sklearn.accuracy_score(labels, predicted),
        "macro_precision": sklearn.precision_score(labels, predicted, **averages),
        "macro_recall": sklearn.recall_score(labels, predicted, **averages),
        "macro_f1": sklearn.f1_score(labels, predicted, **averages),
        "log_loss": sklearn.log_loss(labels, probabilities, labels=["blue", "grün", "red"]),
        "calibration_error": calibration_error(probabilities.max(1), np.array(labels) == np.array(predicted)),
        "images": 24,
        "null_images": 0,
    }


def calibration_error(confidence: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float:
    """By the definition, with the bins' upper ends in them."""
    bins = np.ceil(confidence * 15)
    return float(sum(abs((confidence - right)[bins == of].sum()) for of in np.unique(bins)) / len(right))


def agrees(found: list[tuple[Any, ...]], wanted: dict[str, float], few: tuple[str, ...] | None = None) -> bool:
    """The rows are these metrics, in this order; the last digits of the loss depend on what else is in a batch."""
    return [name for name, _ in found] == list(few or wanted) and [score for _, score in found] == pytest.approx(
        [wanted[name] for name in few or wanted], rel=1e-3
    )


class TestAlone:
    @pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
    def test_the_metrics(self, connection: Connection, wanted: dict[str, float], binary: bool) -> None:
        cursor = connection.execute(text(ALL), binary=binary)
        assert [(column.name, column.type_code) for column in cursor.description or ()] == [("metric", 25), ("score", 701)]
        assert cursor.statusmessage == "SELECT 8"
        assert agrees(cursor.fetchall(), wanted)
        assert list(wanted) == METRICS
        assert 0 < wanted["accuracy"] < 1

    async def test_asyncpg_with_parameters(self, url: str, wanted: dict[str, float]) -> None:
        connection = await asyncpg.connect(url)
        try:
            statement = await connection.prepare(f"{ALL} WHERE id < $1")
            assert agrees([tuple(row) for row in await statement.fetch(100)], wanted)
            assert dict(await statement.fetch(5))["images"] == 5
            async with connection.transaction():
                seen = [row["metric"] async for row in statement.cursor(100, prefetch=2)]
            assert seen == METRICS
        finally:
            await connection.close()

    def test_by_class(self, connection: Connection, wanted: dict[str, float]) -> None:
        query = ALL.replace("colours", "colours OPTIONS (per_class=true)")
        cursor = connection.execute(text(query))
        assert [column.name for column in cursor.description or ()] == ["class", "metric", "score"]
        found = cursor.fetchall()
        assert agrees([row[1:] for row in found if row[0] is None], wanted)
        stored = fetched(connection, "SELECT label, predicted FROM stored")
        names = sorted({name for row in stored for name in row})
        scores = zip(*sklearn.precision_recall_fscore_support(*zip(*stored, strict=True), labels=names, zero_division=0), strict=True)
        kinds = ("precision", "recall", "f1", "images")
        rows = [(name, kind, value) for name, of in zip(names, scores, strict=True) for kind, value in zip(kinds, of, strict=True)]
        assert [row[:2] for row in found[8:]] == [row[:2] for row in rows]
        assert [row[2] for row in found[8:]] == pytest.approx([row[2] for row in rows])

    def test_the_confusion_matrix(self, connection: Connection) -> None:
        cursor = connection.execute(text(ALL.replace("colours", "colours OPTIONS (confusion_matrix=TRUE)")))
        assert [(c.name, c.type_code) for c in cursor.description or ()] == [("label", 25), ("predicted", 25), ("count", 20)]
        found = cursor.fetchall()
        assert cursor.statusmessage == "SELECT 9"
        stored = fetched(connection, "SELECT label, predicted FROM stored")
        names = ["blue", "grün", "red"]
        assert found == [(a, b, stored.count((a, b))) for a in names for b in names]

    def test_labels_of_any_type_and_images_of_bytea(self, connection: Connection, proxy: Proxy) -> None:
        data = (proxy.images / "red" / "0.png").read_bytes()
        found = dict(fetched(connection, "EVALUATE USING colours AS SELECT %s::bytea AS image, 3 AS label", data))
        assert (found["accuracy"], found["images"]) == (0, 1)
        assert found["log_loss"] == pytest.approx(36.0436533891)

    def test_null_images_are_left_out_and_counted(self, connection: Connection) -> None:
        query = "EVALUATE USING colours AS SELECT CASE WHEN id > 2 THEN image END AS image, label FROM pictures"
        found = dict(fetched(connection, query))
        assert (found["images"], found["null_images"]) == (21, 3)

    def test_no_rows(self, connection: Connection) -> None:
        assert fetched(connection, f"{ALL} WHERE false") == [*((name, None) for name in METRICS[:6]), ("images", 0), ("null_images", 0)]

    def test_batch_size_and_columns(self, connection: Connection, wanted: dict[str, float]) -> None:
        options = "OPTIONS (image_col='file', label_col=\"Art\", batch_size=3)"
        query = f'EVALUATE USING colours {options} AS SELECT label AS "Art", image AS file FROM mixed'
        assert agrees(fetched(connection, query), wanted)

    def test_several_in_one_string(self, connection: Connection, wanted: dict[str, float]) -> None:
        cursor = connection.execute(text(f"SELECT 1; {ALL}; CREATE TEMP TABLE t (a int); {ALL} WHERE id < 3; SELECT 2"))
        results = [(result.statusmessage, result.fetchall() if result.description else []) for result in cursor.results()]
        assert [tag for tag, _ in results] == ["SELECT 1", "SELECT 8", "CREATE TABLE", "SELECT 8", "SELECT 1"]
        assert agrees(results[1][1], wanted)
        assert dict(results[3][1])["images"] == 3

    def test_of_a_predict(self, connection: Connection) -> None:
        """Predictions as labels: there is nothing to be wrong about."""
        query = "EVALUATE USING colours OPTIONS (label_col='predicted') AS PREDICT USING colours AS SELECT image FROM pictures"
        for statement in (query, f"SELECT * FROM ({query}) t"):
            assert dict(fetched(connection, statement))["accuracy"] == 1


class TestUnreadable:
    """Images that cannot be read: what `on_error` says becomes of their rows."""

    SOME = "SELECT CASE WHEN id < 20 THEN image WHEN id < 23 THEN 'gone.png' END AS image, label FROM mixed"
    READ = "EVALUATE USING colours AS SELECT image, label FROM mixed WHERE id < 20"
    WAYS = ("{}", "SELECT * FROM ({}) t", "SELECT 1; {}", "SELECT 1; SELECT * FROM ({}) t")

    def query(self, on_error: str) -> str:
        return f"EVALUATE USING colours OPTIONS (on_error='{on_error}') AS {self.SOME} ORDER BY id"

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize(("on_error", "null_images", "became"), [("null", 4, "count as NULL images"), ("SKIP", 1, "are left out")])
    def test_they_are_left_out(self, connection: Connection, way: str, on_error: str, null_images: int, became: str) -> None:
        warnings: list[tuple[str | None, str | None]] = []
        connection.add_notice_handler(lambda diag: warnings.append((diag.sqlstate, diag.message_primary)))
        *_, last = connection.execute(text(way.format(self.query(on_error)))).results()
        found = dict(last.fetchall())
        wanted = dict(fetched(connection, self.READ))
        assert found == pytest.approx({**wanted, "images": 20, "null_images": null_images}, rel=1e-3)
        first = 'the first is that of row 21: image file "gone.png" is not available'
        assert warnings == [("01000", f"3 of 24 images could not be read, and their rows {became}; {first}")]

    @pytest.mark.parametrize("way", WAYS)
    def test_or_they_fail_it(self, connection: Connection, way: str) -> None:
        with pytest.raises(errors.UndefinedFile, match=r'image file "gone\.png" is not available'):
            connection.execute(text(way.format(self.query("fail"))))

    def test_nothing_can_be_read(self, connection: Connection) -> None:
        query = "EVALUATE USING colours OPTIONS (on_error='skip') AS SELECT 'gone.png' AS image, 'red' AS label"
        assert fetched(connection, query) == [*((name, None) for name in METRICS[:6]), ("images", 0), ("null_images", 0)]

    def test_a_null_label_is_an_error_all_the_same(self, connection: Connection) -> None:
        query = "EVALUATE USING colours OPTIONS (on_error='skip') AS SELECT 'gone.png' AS image, NULL AS label"
        with pytest.raises(errors.NullValueNotAllowed, match="row 1"):
            connection.execute(text(query))


class TestProtocol:
    def test_described_before_it_runs(self, url: str) -> None:
        with RawClient(url) as raw:
            replies = raw.talk(
                parse(f"{ALL} WHERE id < $1::int"),
                describe(b"S", b""),
                bind((b"5",), formats=(0, 1)),
                describe(b"P", b""),
                execute(b""),
                SYNC,
            )
        assert replies[:5] == ["1", "t[23]", "T[metric:25/0,score:701/0]", "2", "T[metric:25/0,score:701/1]"]
        assert replies[11] == "D[images,@\x14\0\0\0\0\0\0]", "5.0 as float8send writes it"
        assert replies[-2:] == ["C[SELECT 8]", "Z[I]"]

    def test_text_is_what_postgresql_writes(self, url: str) -> None:
        with RawClient(url) as raw:
            replies = raw.talk(parse(f"{ALL} WHERE id IN (1, 2)"), bind(), execute(b""), SYNC)
            nested = raw.talk(parse(f"SELECT * FROM ({ALL} WHERE id IN (1, 2)) t"), bind(), execute(b""), SYNC)
        assert replies == nested
        assert "D[images,2]" in replies

    def test_row_limits(self, url: str) -> None:
        with RawClient(url) as raw:
            raw.talk(parse("BEGIN"), bind(), execute(b""), SYNC)
            first = raw.talk(parse(ALL), bind(portal="p"), execute(b"p", 6), SYNC)
            rest = raw.talk(execute(b"p", 2), execute(b"p", 2), SYNC)
        assert [reply[0] for reply in first] == [*"12DDDDDDs", "Z"]
        assert [reply if reply[0] == "C" else reply[0] for reply in rest] == ["D", "D", "s", "C[SELECT 0]", "Z"]

    def test_a_failed_block_takes_no_more(self, url: str) -> None:
        with RawClient(url) as raw:
            raw.talk(parse("BEGIN"), bind(), execute(b""), SYNC)
            raw.talk(parse(ALL), bind(portal="p"), execute(b"p", 2), SYNC)
            assert raw.talk(parse("SELECT 1/0"), bind(), execute(b""), SYNC)[-1] == "Z[E]"
            assert raw.talk(execute(b"p", 2), SYNC)[0].startswith("E[25P02")


IMAGES = "SELECT score FROM {p} t WHERE metric = 'images' AND score > %s"
QUERIES: dict[str, str] = {
    "from": IMAGES,
    "from without alias": "SELECT score FROM {p} WHERE metric = 'images' AND score > %s",
    "column aliases": "SELECT b FROM {p} AS t (a, b) WHERE a = 'images' AND b > %s",
    "order is kept": "SELECT max(score) FILTER (WHERE metric = 'images') FROM (SELECT * FROM {p} t LIMIT 7) u WHERE score > %s",
    "join": "SELECT t.score FROM {p} t JOIN (VALUES ('images')) v (metric) USING (metric) WHERE score > %s",
    "cte": "WITH e AS {p} SELECT score FROM e WHERE metric = 'images' AND score > %s",
    "materialized cte": "WITH e (a, b) AS MATERIALIZED {p} SELECT b FROM e WHERE a = 'images' AND b > %s",
    "scalar subquery": "SELECT (SELECT score FROM {p} t WHERE metric = 'images') WHERE 1 > %s",
    "in": "SELECT 24::float8 WHERE 'images' IN (SELECT metric FROM {p} t) AND 1 > %s",
    "exists": "SELECT 24::float8 WHERE EXISTS {p} AND 1 > %s",
    "array": "SELECT (ARRAY(SELECT score FROM {p} t WHERE score > %s AND metric = 'images'))[1]",
    "union": "SELECT score FROM {p} t WHERE metric = 'images' UNION SELECT score FROM {p} u WHERE metric = 'images' AND score > %s",
    "bare in a union": "SELECT max(b) FROM ({p} UNION SELECT 'other', %s::int) t (a, b)",
    "for update": f"{IMAGES} FOR UPDATE",
    "beside a predict": (
        "SELECT e.score FROM {p} e, (PREDICT USING colours AS TABLE pictures) p WHERE e.metric = 'images' AND p.id = 3 AND p.id > %s "
        "AND p.predicted <> ''"
    ),
    "query of the parameter": (
        "SELECT score FROM (EVALUATE USING colours AS SELECT * FROM mixed WHERE id > %s - 1) t WHERE metric = 'images'"
    ),
    "query of a cte": (
        "WITH w AS (SELECT * FROM mixed) SELECT score FROM (EVALUATE USING colours AS TABLE w) t WHERE metric = 'images' AND score > %s"
    ),
}
"""Position: a query with one parameter, that gives the number of images."""


@pytest.mark.parametrize("position", QUERIES)
@pytest.mark.parametrize("way", ["simple", "in a string", "in a block", "read only", "extended", "prepared"])
def test_positions(connection: Connection, position: str, way: str) -> None:
    statement = QUERIES[position].format(p=f"({ALL})")
    if way in ("extended", "prepared"):
        assert fetched(connection, statement, 0, prepare=way == "prepared") == [(24,)]
        assert fetched(connection, statement, 0, prepare=way == "prepared") == [(24,)]
    elif way == "in a string":
        *_, last = connection.execute(text(f"SELECT 1; {statement}".replace("%s", "0"))).results()
        assert last.fetchall() == [(24,)]
    else:
        if way == "in a block":
            connection.execute("BEGIN")
        if way == "read only" and "UPDATE" in statement:
            pytest.skip("locks are refused there")
        if way == "read only":
            connection.execute("SET default_transaction_read_only = on")
        assert fetched(connection, statement.replace("%s", "0")) == [(24,)]
    connection.execute("ROLLBACK")
    assert left_behind(connection) == []


STATEMENTS: dict[str, tuple[str, str]] = {
    "create table": ("CREATE TABLE made AS {p}", "SELECT 8"),
    "create table with columns": ("CREATE TEMP TABLE made (metric, score) AS {p} WITH DATA", "SELECT 8"),
    "select into": ("SELECT * INTO made FROM {p} t", "SELECT 8"),
    "insert": ("CREATE TABLE made (metric text, score float8); INSERT INTO made {p}", "INSERT 0 8"),
    "insert columns": ("CREATE TABLE made (score float8, metric text); INSERT INTO made (metric, score) {p}", "INSERT 0 8"),
    "insert on conflict": (
        "CREATE TABLE made (metric text PRIMARY KEY, score float8); INSERT INTO made {p} ON CONFLICT DO NOTHING",
        "INSERT 0 8",
    ),
    "merge": (
        "CREATE TABLE made (metric text, score float8); MERGE INTO made USING {p} e ON made.metric = e.metric "
        "WHEN NOT MATCHED THEN INSERT VALUES (e.metric, e.score)",
        "MERGE 8",
    ),
}


@pytest.mark.parametrize("position", STATEMENTS)
@pytest.mark.parametrize("way", ["simple", "extended", "in a string"])
def test_statements(connection: Connection, position: str, way: str, wanted: dict[str, float]) -> None:
    pattern, tag = STATEMENTS[position]
    *before, statement = pattern.format(p=f"({ALL})").split("; ")
    with connection.transaction(force_rollback=True):
        for other in before:
            connection.execute(text(other))
        cursor = connection.execute(text(f"SELECT 1; {statement}" if way == "in a string" else statement), binary=way == "extended")
        assert list(cursor.results())[-1].statusmessage == tag
        assert sorted(fetched(connection, "SELECT metric FROM made")) == sorted((name,) for name in METRICS)
        assert agrees(fetched(connection, "SELECT metric, score FROM made WHERE metric = 'accuracy'"), wanted, ("accuracy",))
    assert left_behind(connection) == []


class TestElsewhere:
    @pytest.mark.parametrize("options", ["", "(FORMAT csv)", "(FORMAT binary)"], ids=["text", "csv", "binary"])
    def test_copy(self, connection: Connection, options: str) -> None:
        with connection.cursor() as cursor, cursor.copy(text(f"COPY ({ALL}) TO STDOUT {options}")) as copy:
            data = b"".join(bytes(part) for part in copy)
        assert [data.index(name.encode()) for name in METRICS] == sorted(data.index(name.encode()) for name in METRICS)

    def test_copy_in_a_read_only_transaction(self, connection: Connection) -> None:
        connection.execute("SET default_transaction_read_only = on")
        with connection.cursor() as cursor, cursor.copy(text(f"COPY ({ALL}) TO STDOUT")) as copy:
            assert b"".join(bytes(part) for part in copy).count(b"\n") == 8

    def test_cursor(self, connection: Connection) -> None:
        with connection.transaction():
            connection.execute(text(f"DECLARE c SCROLL CURSOR FOR {ALL}"))
            assert [row[0] for row in fetched(connection, "FETCH 2 FROM c")] == METRICS[:2]
            assert fetched(connection, "FETCH LAST FROM c") == [("null_images", 0)]

    def test_cursor_in_a_string(self, connection: Connection) -> None:
        connection.execute(text(f"BEGIN; DECLARE c CURSOR FOR {ALL}"))
        assert [row[0] for row in fetched(connection, "FETCH ALL FROM c")] == METRICS
        connection.execute("COMMIT")

    def test_explain(self, connection: Connection) -> None:
        lines = [row[0] for row in fetched(connection, f"EXPLAIN {ALL} WHERE image = 'gone.png'")]
        assert any("Seq Scan on mixed" in line for line in lines)
        assert lines[-1] == "Evaluate using colours@1 (MobileNet_V2): each row of its query"
        lines = [row[0] for row in fetched(connection, f"EXPLAIN ANALYZE {ALL}")]
        at = next(i for i, line in enumerate(lines) if line.startswith("Evaluate using colours@1 (MobileNet_V2): rows=24 batches="))
        assert any("Seq Scan on mixed" in line for line in lines[at:])

    def test_prepare_and_execute(self, connection: Connection) -> None:
        connection.execute(text(f"PREPARE few(int) AS {ALL} WHERE id < $1"))
        assert dict(fetched(connection, "EXECUTE few(3)"))["images"] == 3
        connection.execute(text(f"PREPARE nested AS SELECT * FROM ({ALL} WHERE id < $1) t"))
        assert dict(fetched(connection, "EXECUTE nested(2)"))["images"] == 2
        for none in ("2", "0"):
            with pytest.raises(errors.FeatureNotSupported, match="only thanoproxy can run"):
                connection.execute(text(f"SELECT 1; EXECUTE nested({none})"))

    @pytest.mark.parametrize("options", ["per_class=true", "confusion_matrix=true"])
    def test_with_options(self, connection: Connection, options: str) -> None:
        query = ALL.replace("colours", f"colours OPTIONS ({options})")
        alone = fetched(connection, query)
        assert any("grün" in row for row in alone)
        for statement in (f"SELECT * FROM ({query}) t", f"SELECT 1; SELECT * FROM ({query}) t"):
            *_, last = connection.execute(text(statement)).results()
            found = last.fetchall()
            assert [row[:2] for row in found] == [row[:2] for row in alone]
            assert [row[2] for row in found] == pytest.approx([row[2] for row in alone], rel=1e-3)

    def test_in_another_encoding(self, connection: Connection) -> None:
        connection.execute("SET client_encoding = 'LATIN1'")
        query = ALL.replace("colours", "colours OPTIONS (confusion_matrix=true)")
        names = {row[0] for row in fetched(connection, query)}
        assert names == {row[0] for row in fetched(connection, f"SELECT * FROM ({query}) t")} == {"blue", "grün", "red"}

    def test_a_table_of_that_name_stays_what_it_was(self, connection: Connection) -> None:
        connection.execute("CREATE TEMP TABLE evaluate (id int)")
        assert fetched(connection, "SELECT k.id FROM pictures k JOIN evaluate USING (id)") == []


MANY = "EVALUATE USING colours AS SELECT image, label FROM mixed, generate_series(1, 1000000)"


class TestStopping:
    @pytest.mark.parametrize("statement", [MANY, f"SELECT 1; {MANY}; SELECT 2", f"SELECT * FROM ({MANY}) t", f"SELECT 1; TABLE t; {MANY}"])
    def test_cancel(self, connection: Connection, statement: str) -> None:
        statement = statement.replace("TABLE t", f"SELECT count(*) FROM ({ALL}) t")
        timer, start = cancel_soon(connection), time.monotonic()
        with pytest.raises(errors.QueryCanceled, match="user request"):
            connection.execute(text(statement))
        assert time.monotonic() - start < 3.5
        timer.join()
        assert fetched(connection, "SELECT 1") == [(1,)]

    @pytest.mark.parametrize("statement", [MANY, f"SELECT 1; {MANY}", f"SELECT * FROM ({MANY}) t"])
    def test_statement_timeout(self, connection: Connection, statement: str) -> None:
        connection.execute("SET statement_timeout = '900ms'")
        start = time.monotonic()
        with pytest.raises(errors.QueryCanceled, match="statement timeout"):
            connection.execute(text(statement))
        assert 0.8 < time.monotonic() - start < 3.0
        assert fetched(connection, "SELECT 1") == [(1,)]


ERRORS: list[tuple[str, str, str | None, str, str | None]] = [
    # statement, SQLSTATE, the text its position points at, message, a part of the hint
    ("EVALUATE USING nobody AS SELECT '' AS image", "42704", "nobody", 'model "nobody" does not exist', "LIST MODEL"),
    ("EVALUATE colours AS SELECT 1", "42601", "colours", "expected USING", "EVALUATE USING model"),
    ("EVALUATE USING colours OPTIONS (classes=1) AS SELECT 1", "42601", "classes=", 'unknown option "classes" of EVALUATE', "per_class"),
    ("EVALUATE USING colours OPTIONS (per_class=1) AS SELECT 1", "22023", "1) AS", "TRUE or FALSE", None),
    (
        "EVALUATE USING colours OPTIONS (per_class=true, confusion_matrix=true) AS TABLE mixed",
        "0A000", "true) AS", "exclude each other", None,
    ),
    ("EVALUATE USING colours AS SELECT image FROM mixed", "42703", None, 'no column "label"', "label_col"),
    ("EVALUATE USING colours AS SELECT label FROM mixed", "42703", None, 'no column "image"', "image_col"),
    ("EVALUATE USING colours AS SELECT image, NULLIF(id, 2) AS label FROM mixed ORDER BY id", "22004", None, "row 3 is NULL", "NOT NULL"),
    ("EVALUATE USING colours AS SELECT 'gone.png' AS image, 'x' AS label", "58P01", None, "gone.png", None),
    ("EVALUATE USING colours AS SELECT nope FROM mixed", "42703", "nope", "nope", None),
    ("EVALUATE USING colours AS SELECT image, 1/(id-3) AS label FROM mixed", "22012", None, "division", None),
    ("SELECT * FROM pictures p, LATERAL (EVALUATE USING colours AS SELECT p.image) t", "0A000", "LATERAL", "EVALUATE cannot be", None),
    ("SELECT 1 UNION EVALUATE USING colours AS SELECT 1", "42601", "EVALUATE", "EVALUATE needs parentheses", "UNION (EVALUATE"),
]  # fmt: skip


@pytest.mark.parametrize("way", ["simple", "prepared", "inside", "in a string", "inside, in a string"])
@pytest.mark.parametrize(("statement", "sqlstate", "place", "message", "hint"), ERRORS, ids=[case[0][:70] for case in ERRORS])
def test_errors(connection: Connection, statement: str, sqlstate: str, place: str | None, message: str, hint: str | None, way: str) -> None:
    if "inside" in way and "EVALUATE colours" in statement:
        pytest.skip("inside of others it is told by the word USING")
    if "inside" in way and statement.startswith("EVALUATE"):
        statement = f"SELECT * FROM ({statement}) t"
    if "in a string" in way:
        statement = f"CREATE TABLE never (a int); {statement}"
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(text(statement), prepare=way == "prepared")
    diag = caught.value.diag
    assert (diag.sqlstate, message in (diag.message_primary or "")) == (sqlstate, True), diag.message_primary
    assert hint is None or hint in (diag.message_hint or "")
    assert diag.statement_position == (None if place is None else str(statement.rindex(place) + 1))
    assert fetched(connection, "SELECT to_regclass('never')") == [(None,)]
    assert left_behind(connection) == []
