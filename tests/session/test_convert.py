"""CONVERT: every row with its image as numbers, alone and at every position where a PREDICT may stand.

What must come out inside other SQL is what the same SQL gives over `embedded`, a table of the same embeddings.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import asyncpg
import numpy as np
import psycopg
import pytest
from psycopg import errors

from tests.rawwire import RawClient, bind, parse
from tests.serving import Proxy
from tests.session.asking import Connection, fetched, text
from tests.session.test_nested import QUERIES, STATEMENTS, left_behind
from thanoproxy.session import columns, sheet
from thanoproxy.wire.messages import SYNC, describe, execute
from thanoproxy.workers import jobs

HOLE = "(CONVERT USING colours AS SELECT id, image, label FROM pictures)"
ALL = "CONVERT USING colours AS SELECT id, image FROM pictures ORDER BY id"
SIZE = 1280
"""Of MobileNet_V2."""


def of_embeddings(query: str) -> str | None:
    """A query about predictions as one about embeddings; None where it is about their text."""
    asks_for_text = re.search(r"'(red|blue|a)'|upper|min\(predicted\)|SELECT id, label FROM pictures|DISTINCT FROM", query)
    return None if asks_for_text else query.replace("predicted", "embedding").replace("stored", "embedded")


@pytest.fixture(scope="module")
def url(url: str) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE embedded AS CONVERT USING colours AS SELECT id, image, label FROM pictures")
        connection.execute("CREATE TABLE stored AS SELECT id FROM pictures")
    return url


@pytest.fixture(scope="module")
def features(proxy: Proxy, url: str) -> np.ndarray[Any, Any]:
    """What the workers themselves say of the pictures, in the order of their ids."""
    with psycopg.connect(url) as connection:
        images = [str(image) for (image,) in connection.execute("SELECT image FROM pictures ORDER BY id").fetchall()]
        artifacts = connection.execute("SELECT artifact FROM thanosql.model_version WHERE name = 'colours'").fetchall()
    request = jobs.Predict("features", str(artifacts[0][0]), list(images), top_k=0, vector="features")
    reply = asyncio.run_coroutine_threadsafe(proxy.server.pool.predict(request), proxy.loop).result(60)
    return np.stack([np.frombuffer(vector or b"", dtype="<f4") for vector in reply.vectors])


class TestAlone:
    @pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
    def test_every_row_and_its_embedding(self, connection: Connection, features: np.ndarray[Any, Any], binary: bool) -> None:
        cursor = connection.cursor(binary=binary)
        found = cursor.execute(text(ALL)).fetchall()
        assert cursor.statusmessage == "SELECT 24"
        assert [(column.name, column.type_code) for column in cursor.description or ()] == [("id", 23), ("image", 25), ("embedding", 1021)]
        assert [row[0] for row in found] == list(range(24))
        assert features.shape == (24, SIZE)
        np.testing.assert_allclose([row[2] for row in found], features, rtol=1e-4, atol=1e-6)

    async def test_asyncpg_reads_a_list_of_numbers(self, url: str, features: np.ndarray[Any, Any]) -> None:
        connection = await asyncpg.connect(url)
        try:
            found = await connection.fetch("CONVERT USING colours AS SELECT * FROM pictures WHERE id < $1 ORDER BY id", 5)
            np.testing.assert_allclose([row["embedding"] for row in found], features[:5], rtol=1e-4, atol=1e-6)
        finally:
            await connection.close()

    def test_text_is_what_postgresql_writes(self, connection: Connection) -> None:
        ours = [row[0] for row in fetched_text(connection, "CONVERT USING colours AS SELECT image FROM pictures WHERE id < 4", 1)]
        theirs = fetched_text(connection, "SELECT embedding FROM (CONVERT USING colours AS SELECT image FROM pictures WHERE id < 4) t", 0)
        assert ours == [row[0] for row in theirs]

    def test_no_image_no_embedding(self, connection: Connection) -> None:
        query = "CONVERT USING colours AS SELECT NULLIF(image, 'red/0.png') AS image FROM pictures WHERE id < 2 ORDER BY id"
        assert [row[1] is None for row in fetched(connection, query)] == [False, True]
        assert [row[1] is None for row in fetched(connection, f"SELECT * FROM ({query}) t")] == [False, True]

    def test_options(self, connection: Connection) -> None:
        query = (
            "CONVERT USING colours OPTIONS (image_col='file', column_name='numbers', batch_size=2) AS SELECT image AS file FROM pictures"
        )
        cursor = connection.execute(text(query))
        assert [column.name for column in cursor.description or ()] == ["file", "numbers"]
        assert len(cursor.fetchall()) == 24

    def test_several_in_one_string(self, connection: Connection) -> None:
        cursor = connection.execute(
            text(f"SELECT 1; {ALL}; SELECT count(embedding) FROM {HOLE} t; PREDICT USING colours AS TABLE pictures")
        )
        counts = [len(results.fetchall()) for results in cursor.results()]
        assert counts == [1, 24, 1, 24]


def fetched_text(connection: Connection, query: str, column: int) -> list[tuple[str]]:
    """The values of a column as they came."""
    result = connection.execute(text(query)).pgresult
    assert result is not None
    return [((result.get_value(row, column) or b"").decode(),) for row in range(result.ntuples)]


class TestFormats:
    @pytest.mark.parametrize("formats", [(), (0,), (1,), (0, 0, 1), (1, 1, 0)])
    def test_each_column_has_the_format_that_bind_names(self, url: str, formats: tuple[int, ...]) -> None:
        statement = "CONVERT USING colours AS SELECT id, image FROM pictures WHERE id < $1::int ORDER BY id"
        shown = [formats[0] if len(formats) == 1 else formats[i] if formats else 0 for i in range(3)]
        with RawClient(url) as raw:
            replies = raw.talk(
                parse(statement), describe(b"S", b""), bind((b"1",), formats=formats), describe(b"P", b""), execute(b""), SYNC
            )
        assert replies[2] == "T[id:23/0,image:25/0,embedding:1021/0]"
        assert replies[4] == f"T[id:23/{shown[0]},image:25/{shown[1]},embedding:1021/{shown[2]}]"
        value = replies[5].removesuffix("]").rpartition("png,")[2].encode("latin-1")
        assert value[:1] == (b"\0" if shown[2] else b"{")
        assert len(value) == 20 + 8 * SIZE if shown[2] else value.count(b",") == SIZE - 1
        assert replies[-2:] == ["C[SELECT 1]", "Z[I]"]


@pytest.mark.parametrize("position", [position for position in QUERIES if of_embeddings(QUERIES[position])])
class TestPositions:
    @pytest.mark.parametrize("way", ["simple", "extended", "prepared", "in a string"])
    def test_the_same_as_over_stored_ones(self, connection: Connection, position: str, way: str) -> None:
        pattern = of_embeddings(QUERIES[position]) or ""
        ours, plain = pattern.format(p=HOLE), self._plain(position, pattern)
        if way in ("simple", "in a string"):
            ours, plain = ours.replace("%s", "8"), plain.replace("%s", "8")
            found = fetched(connection, ours) if way == "simple" else self._last(connection, f"SELECT 1; {ours}")
            assert alike(found, fetched(connection, plain))
        else:
            assert alike(fetched(connection, ours, 8, prepare=way == "prepared"), fetched(connection, plain, 8))
        assert left_behind(connection) == []

    def _plain(self, position: str, pattern: str) -> str:
        plain = re.sub(r"AS (MATERIALIZED )?embedded", r"AS \1(TABLE embedded)", pattern.format(p="embedded"))
        return plain.replace("((embedded)", "((TABLE embedded)") if position == "bare in a union" else plain

    def _last(self, connection: Connection, statements: str) -> list[tuple[Any, ...]]:
        *_, last = connection.execute(text(statements)).results()
        return last.fetchall()


def alike(found: object, expected: object) -> bool:
    """Equal, but for the last digits of numbers, which depend on what else is in a batch."""
    if isinstance(found, float) and isinstance(expected, float):
        return abs(found - expected) <= 1e-3 * max(abs(found), abs(expected)) + 1e-4
    if isinstance(found, str) and isinstance(expected, str) and "{" in found:
        numbers = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")
        return alike([float(x) for x in numbers.findall(found)], [float(x) for x in numbers.findall(expected)])
    if isinstance(found, list | tuple) and isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(alike(a, b) for a, b in zip(found, expected, strict=True))
    return found == expected


@pytest.mark.parametrize(
    "position", [position for position in STATEMENTS if position not in ("update", "delete", "create table from cte data")]
)
@pytest.mark.parametrize("binary", [False, True], ids=["simple", "extended"])
def test_statements(connection: Connection, position: str, binary: bool) -> None:
    pattern, tag = STATEMENTS[position]
    pattern = pattern.replace("predicted text", "embedding real[]").replace("predicted", "embedding").replace("PREDICT ", "CONVERT ")
    *before, statement = pattern.format(p=HOLE).split("; ")
    with connection.transaction(force_rollback=True):
        for other in before:
            connection.execute(text(other))
        assert connection.execute(text(statement), binary=binary).statusmessage == tag
        expected = "SELECT id, embedding FROM embedded" + (" WHERE false" if "NO DATA" in pattern else "")
        found = fetched(connection, "SELECT id, embedding FROM made ORDER BY id")
        assert alike(found, fetched(connection, f"{expected} ORDER BY id"))
        assert fetched(connection, "SELECT pg_typeof(embedding)::text FROM made LIMIT 1") in ([], [("real[]",)])
    assert left_behind(connection) == []


class TestElsewhere:
    @pytest.mark.parametrize("options", ["", "(FORMAT csv)", "(FORMAT binary)"], ids=["text", "csv", "binary"])
    def test_copy(self, connection: Connection, options: str) -> None:
        with connection.cursor() as cursor, cursor.copy(text(f"COPY ({ALL}) TO STDOUT {options}")) as copy:
            data = b"".join(bytes(part) for part in copy)
        assert (data.count(b"\n") == 24) or options == "(FORMAT binary)"
        with connection.transaction(force_rollback=True):
            connection.execute("CREATE TABLE copied (id int, image text, embedding real[])")
            with connection.cursor() as cursor, cursor.copy(text(f"COPY copied FROM STDIN {options}")) as copy:
                copy.write(data)
            assert alike(fetched(connection, "SELECT id, embedding FROM copied"), fetched(connection, "SELECT id, embedding FROM embedded"))

    def test_pgvector(self, connection: Connection) -> None:
        with connection.transaction(force_rollback=True):
            connection.execute("CREATE EXTENSION vector")
            connection.execute(text(f"CREATE TABLE near AS SELECT id, embedding::vector({SIZE}) AS embedding FROM {HOLE} t"))
            nearest = "SELECT id FROM near ORDER BY embedding <=> (SELECT embedding FROM near WHERE id = 3) LIMIT 1"
            assert fetched(connection, nearest) == [(3,)]

    def test_cursor(self, connection: Connection) -> None:
        with connection.transaction():
            connection.execute(text(f"DECLARE c SCROLL CURSOR FOR {ALL}"))
            assert [row[0] for row in fetched(connection, "FETCH 2 FROM c")] == [0, 1]
            ((_, _, last),) = fetched(connection, "FETCH LAST FROM c")
            assert len(last) == SIZE

    def test_row_limits(self, url: str) -> None:
        with RawClient(url) as raw:
            raw.talk(parse("BEGIN"), bind(), execute(b""), SYNC)
            replies = raw.talk(parse(ALL), bind(portal="p", formats=(1,)), execute(b"p", 2), execute(b"p"), SYNC)
        assert [reply[0] for reply in replies] == ["1", "2", *"DDs", *"D" * 22, "C", "Z"]

    def test_explain(self, connection: Connection) -> None:
        lines = [row[0] for row in fetched(connection, f"EXPLAIN {ALL}")]
        assert lines[-1] == "Convert using colours@1 (MobileNet_V2): each row of its query"
        lines = [row[0] for row in fetched(connection, f"EXPLAIN ANALYZE {ALL}")]
        assert any(line.startswith("Convert using colours@1 (MobileNet_V2): rows=24 batches=") for line in lines)

    def test_prepare_and_execute(self, connection: Connection) -> None:
        connection.execute("PREPARE few(int) AS CONVERT USING colours AS SELECT id, image FROM pictures WHERE id < $1")
        assert len(fetched(connection, "EXECUTE few(3)")) == 3
        connection.execute(text(f"PREPARE more AS SELECT id, embedding FROM {HOLE} t WHERE id < $1"))
        assert [len(row[1]) for row in fetched(connection, "EXECUTE more(2)")] == [SIZE, SIZE]
        with pytest.raises(errors.FeatureNotSupported, match="only thanoproxy can run"):
            connection.execute("SELECT 1; EXECUTE more(2)")

    def test_of_a_predict_and_beside_one(self, connection: Connection) -> None:
        both = "CONVERT USING colours AS PREDICT USING colours AS SELECT id, image FROM pictures WHERE id < 3"
        found = fetched(connection, both)
        assert [(len(row), len(row[3])) for row in found] == [(4, SIZE)] * 3
        joined = f"SELECT p.predicted, c.embedding FROM (PREDICT USING colours AS TABLE pictures) p JOIN {HOLE} c USING (id)"
        assert len(fetched(connection, joined)) == 24

    def test_read_only(self, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
        connection.execute("SET default_transaction_read_only = on")
        query = f"SELECT id, embedding FROM {HOLE} t WHERE id < %s ORDER BY id"
        assert alike(fetched(connection, query, 5), fetched(connection, "SELECT id, embedding FROM embedded WHERE id < 5 ORDER BY id"))
        monkeypatch.setattr(columns, "LIMIT", 50_000)
        with pytest.raises(errors.ProgramLimitExceeded):
            fetched(connection, query, 24)

    def test_embeddings_that_wait_on_disk(self, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sheet, "_IN_MEMORY", 1000)
        assert fetched(connection, f"SELECT sum(cardinality(embedding)) FROM {HOLE} t") == [(24 * SIZE,)]

    def test_a_table_or_function_of_that_name_stays_what_it_was(self, connection: Connection) -> None:
        connection.execute("CREATE TEMP TABLE convert (id int, embedding int)")
        assert fetched(connection, "SELECT k.id FROM pictures k JOIN convert USING (id)") == []
        assert fetched(connection, "SELECT convert('a'::bytea, 'UTF8', 'LATIN1')") == [(b"a",)]


ERRORS: list[tuple[str, str, str | None, str, str | None]] = [
    # statement, SQLSTATE, the text its position points at, message, a part of the hint
    ("CONVERT USING nobody AS SELECT '' AS image", "42704", "nobody", 'model "nobody" does not exist', "LIST MODEL"),
    ("CONVERT colours AS SELECT 1", "42601", "colours", "expected USING", "CONVERT USING model"),
    ("CONVERT USING colours OPTIONS (top=1) AS SELECT 1", "42601", "top=", 'unknown option "top" of CONVERT', None),
    ("CONVERT USING colours AS SELECT image, 1 AS embedding FROM pictures", "42701", None, "embedding", "Give the embedding another name"),
    ("CONVERT USING colours AS SELECT id FROM pictures", "42703", None, 'no column "image"', "image_col"),
    ("CONVERT USING colours AS SELECT 'gone.png' AS image", "58P01", None, "gone.png", None),
    ("SELECT embedding FROM (CONVERT USING colours AS SELECT 'gone.png' AS image) t", "58P01", None, "gone.png", None),
    ("SELECT * FROM pictures p, LATERAL (CONVERT USING colours AS SELECT p.image) t", "0A000", "LATERAL", "CONVERT cannot be", None),
    ("SELECT 1 UNION CONVERT USING colours AS SELECT 1", "42601", "CONVERT", "CONVERT needs parentheses", "UNION (CONVERT"),
]  # fmt: skip


@pytest.mark.parametrize("prepare", [False, True], ids=["simple", "prepared"])
@pytest.mark.parametrize(("statement", "sqlstate", "place", "message", "hint"), ERRORS)
def test_errors(
    connection: Connection, statement: str, sqlstate: str, place: str | None, message: str, hint: str | None, prepare: bool
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(text(statement), prepare=prepare)
    diag = caught.value.diag
    assert (diag.sqlstate, message in (diag.message_primary or "")) == (sqlstate, True)
    assert hint is None or hint in (diag.message_hint or "")
    assert diag.statement_position == (None if place is None else str(statement.rindex(place) + 1))
    assert fetched(connection, "SELECT 'usable'") == [("usable",)]
