"""PREDICT inside other SQL, against a PostgreSQL: every position, protocol and failure.

What must come out is never written down: it is what the same query gives over `stored`, a table of the same predictions.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from threading import Timer
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg import errors
from psycopg.pq import TransactionStatus

from tests.databases import Database
from tests.rawwire import RawClient, bind, parse
from tests.serving import Proxy
from tests.session.asking import Connection, fetched, text
from thanoproxy.session import sheet
from thanoproxy.wire.messages import SYNC, close, describe, execute, query

P = "(PREDICT USING colours AS SELECT id, image, label FROM pictures)"
"""A hole; the matrix below has `stored` in its place for the other answer."""
BROKEN = "(PREDICT USING colours AS SELECT id, CASE WHEN id < 3 THEN image ELSE 'gone.png' END AS image FROM pictures ORDER BY id)"
"""A hole that fails as soon as more than its first three rows are predicted."""


def left_behind(connection: Connection) -> list[str]:
    """Our temporary tables on this connection."""
    return [
        name for (name,) in fetched(connection, "SELECT relname FROM pg_class WHERE relname LIKE 'thanoproxy%' AND relpersistence = 't'")
    ]


@pytest.fixture(scope="module")
def url(url: str) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE stored AS PREDICT USING colours AS SELECT id, image, label FROM pictures")
        connection.execute("CREATE TABLE kept (id int PRIMARY KEY, image text, label text, predicted text)")
    return url


QUERIES: dict[str, str] = {
    "from": "SELECT id, predicted FROM {p} AS t WHERE id < %s ORDER BY id",
    "from without alias": "SELECT id, predicted FROM {p} WHERE id < %s ORDER BY id",
    "from with column aliases": "SELECT a, d FROM {p} AS t (a, b, c, d) WHERE a < %s ORDER BY a",
    "star": "SELECT * FROM {p} t WHERE id < %s ORDER BY id",
    "whole row": "SELECT t::text, to_json(t)::text FROM {p} t WHERE id < %s ORDER BY id",
    "whole row of a join": "SELECT (to_json(j) ->> 'predicted') FROM (pictures k JOIN {p} t USING (id)) AS j WHERE j.id < %s ORDER BY 1",
    "join": "SELECT k.id, t.predicted FROM pictures k JOIN {p} t USING (id) WHERE k.id < %s ORDER BY 1",
    "left join": "SELECT k.id, t.predicted FROM pictures k LEFT JOIN {p} t ON k.id = t.id + 20 WHERE k.id > %s ORDER BY 1",
    "natural join": "SELECT id, predicted FROM stored k NATURAL JOIN {p} t WHERE id < %s ORDER BY 1",
    "join using the prediction": "SELECT count(*) FROM pictures k JOIN {p} t USING (id) JOIN stored s USING (predicted) WHERE k.id < %s",
    "comma": "SELECT k.id, t.predicted FROM pictures k, {p} t WHERE k.id = t.id AND k.id < %s ORDER BY 1",
    "cte": "WITH p AS {p} SELECT id, predicted FROM p WHERE id < %s ORDER BY id",
    "two cte": "WITH p AS {p}, q AS (SELECT * FROM {p} x) SELECT p.id, q.predicted FROM p JOIN q USING (id) WHERE id < %s ORDER BY id",
    "nested cte": "WITH o AS (WITH p AS {p} SELECT * FROM p) SELECT id, predicted FROM o WHERE id < %s ORDER BY id",
    "materialized cte": "WITH p (a, b, c, d) AS MATERIALIZED {p} SELECT a, d FROM p WHERE a < %s ORDER BY a",
    "scalar subquery": "SELECT (SELECT predicted FROM {p} t WHERE id = 3), %s::int",
    "correlated subquery": "SELECT k.id, (SELECT predicted FROM {p} t WHERE t.id = k.id) FROM pictures k WHERE k.id < %s ORDER BY 1",
    "in": "SELECT id FROM pictures WHERE id IN (SELECT id FROM {p} t WHERE predicted = 'red') AND id < %s ORDER BY id",
    "exists": "SELECT id FROM pictures k WHERE EXISTS (SELECT FROM {p} t WHERE t.id = k.id AND predicted = 'red') AND id < %s ORDER BY id",
    "array": "SELECT ARRAY(SELECT predicted FROM {p} t WHERE id < %s ORDER BY id)",
    "union": "SELECT id, predicted FROM {p} t WHERE id < %s UNION ALL SELECT id, label FROM pictures WHERE id > 20 ORDER BY 1, 2",
    "bare in a union": "SELECT * FROM (({p}) UNION (SELECT %s, 'a', 'b', 'c')) t ORDER BY id",
    "except": "(SELECT id, label FROM pictures WHERE id < %s EXCEPT SELECT id, predicted FROM {p} t) ORDER BY 1",
    "group": "SELECT predicted, count(*), min(id) FROM {p} t WHERE id < %s GROUP BY predicted ORDER BY predicted",
    "having": "SELECT predicted FROM {p} t GROUP BY predicted HAVING count(*) > %s ORDER BY 1",
    "window": "SELECT id, row_number() OVER (PARTITION BY predicted ORDER BY id) FROM {p} t WHERE id < %s ORDER BY id",
    "count": "SELECT count(*) FROM {p} t WHERE id < %s",
    "offset": "SELECT id, predicted FROM {p} t WHERE id < %s ORDER BY id LIMIT 3 OFFSET 2",
    "filtered by the prediction": "SELECT id FROM {p} t WHERE predicted = 'red' AND id < %s ORDER BY id LIMIT 4",
    "ordered by a cast": "SELECT id::text FROM {p} t WHERE id < 15 + %s ORDER BY id LIMIT 12",
    "two": "SELECT a.id, b.predicted FROM {p} a JOIN {p} b ON a.id = b.id + 1 WHERE a.id < %s ORDER BY 1",
    "for update": "SELECT id, predicted FROM {p} t WHERE id < %s ORDER BY id FOR UPDATE",
    "distinct from": "SELECT id FROM pictures WHERE label IS DISTINCT FROM (SELECT max(predicted) FROM {p} t) AND id < %s ORDER BY 1",
    "lateral beside it": "SELECT t.id, u.x FROM {p} t, LATERAL (SELECT upper(t.predicted) AS x) u WHERE t.id < %s ORDER BY 1",
    "recursive": (
        "WITH RECURSIVE r AS (SELECT id, predicted FROM {p} t WHERE id = 0 UNION ALL "
        "SELECT t.id, t.predicted FROM r JOIN {p} t ON t.id = r.id + 1 WHERE t.id < %s) SELECT * FROM r ORDER BY id"
    ),
    "values": "VALUES ((SELECT max(predicted) FROM {p} t), %s::int)",
    "case": "SELECT CASE WHEN (SELECT min(predicted) FROM {p} t) = 'blue' THEN 1 ELSE %s END",
    "comments": "SELECT id /* ( */, predicted FROM -- {{\n {p} -- )\n AS t /* x */ WHERE id < %s ORDER BY id",
}
"""Position: a query with one parameter."""


@pytest.mark.parametrize("position", QUERIES)
class TestQueries:
    """Every position x protocol equals the same over the stored predictions."""

    @pytest.mark.parametrize("block", [False, True], ids=["alone", "in a block"])
    def test_simple(self, connection: Connection, position: str, block: bool) -> None:
        statement, plain = (QUERIES[position].format(p=p).replace("%s", "8") for p in (P, "stored"))
        expected = self._expected(connection, position, plain)
        if block:
            connection.execute("BEGIN")
        assert fetched(connection, statement) == expected
        if block:
            assert fetched(connection, statement) == expected
            connection.execute("COMMIT")
        assert left_behind(connection) == []

    @pytest.mark.parametrize("prepare", [False, True], ids=["extended", "prepared"])
    def test_with_parameters(self, connection: Connection, position: str, prepare: bool) -> None:
        statement = QUERIES[position].format(p=P)
        for value in (8, 2):
            expected = self._expected(connection, position, QUERIES[position].format(p="stored"), value)
            assert fetched(connection, statement, value, prepare=prepare) == expected
        assert left_behind(connection) == []

    async def test_asyncpg(self, url: str, position: str) -> None:
        connection = await asyncpg.connect(url)
        try:
            parameter = "$1" if "%s::" in QUERIES[position] else "$1::int"
            statement = QUERIES[position].format(p=P).replace("%s", parameter)
            plain = self._comparable(position, QUERIES[position].format(p="stored")).replace("%s", parameter)
            prepared = await connection.prepare(statement)
            for value in (8, 2):
                assert [tuple(row) for row in await prepared.fetch(value)] == [tuple(row) for row in await connection.fetch(plain, value)]
            async with connection.transaction():
                cursor = await connection.cursor(statement, 8)
                seen = [*await cursor.fetch(1), *await cursor.fetch(100)]
                assert [tuple(row) for row in seen] == [tuple(row) for row in await connection.fetch(plain, 8)]
        finally:
            await connection.close()

    def _expected(self, connection: Connection, position: str, plain: str, *values: object) -> list[tuple[Any, ...]]:
        return fetched(connection, self._comparable(position, plain), *values)

    def _comparable(self, position: str, plain: str) -> str:
        plain = re.sub(r"AS (MATERIALIZED )?stored", r"AS \1(TABLE stored)", plain)
        return plain.replace("((stored)", "((TABLE stored)") if position == "bare in a union" else plain


STATEMENTS: dict[str, tuple[str, str]] = {
    "create table": ("CREATE TABLE made AS {p}", "SELECT 24"),
    "create temp table with columns": (
        "CREATE TEMP TABLE made (id, b, c, predicted) ON COMMIT PRESERVE ROWS AS {p} WITH DATA",
        "SELECT 24",
    ),
    "create table of a select": ("CREATE UNLOGGED TABLE IF NOT EXISTS made AS SELECT id, predicted FROM {p} t", "SELECT 24"),
    "create table with no data": ("CREATE TABLE made AS {p} WITH NO DATA", "CREATE TABLE AS"),
    "create table from cte data": (
        "CREATE TABLE made AS PREDICT USING colours AS WITH data AS (SELECT * FROM pictures) SELECT id, image FROM data",
        "SELECT 24",
    ),
    "select into": ("SELECT id, predicted INTO made FROM {p} t", "SELECT 24"),
    "insert": ("CREATE TABLE made (id int, image text, label text, predicted text); INSERT INTO made {p}", "INSERT 0 24"),
    "insert columns": (
        "CREATE TABLE made (x int DEFAULT 7, predicted text, id int); INSERT INTO made (id, predicted) SELECT id, predicted FROM {p} t",
        "INSERT 0 24",
    ),
    "insert overriding": (
        "CREATE TABLE made (id int GENERATED ALWAYS AS IDENTITY, image text, label text, predicted text); "
        "INSERT INTO made OVERRIDING SYSTEM VALUE {p}",
        "INSERT 0 24",
    ),
    "insert on conflict": (
        "CREATE TABLE made (id int PRIMARY KEY, image text, label text, predicted text); "
        "INSERT INTO made {p} ON CONFLICT (id) DO UPDATE SET predicted = excluded.predicted",
        "INSERT 0 24",
    ),
    "insert behind with": (
        "CREATE TABLE made (id int, image text, label text, predicted text); "
        "WITH few AS (SELECT * FROM pictures) INSERT INTO made PREDICT USING colours AS SELECT id, image, label FROM few",
        "INSERT 0 24",
    ),
    "insert inside with": (
        "CREATE TABLE made (id int, image text, label text, predicted text); WITH w AS (INSERT INTO made {p} RETURNING id) "
        "SELECT count(*) FROM w",
        "SELECT 1",
    ),
    "update": (
        "CREATE TABLE made AS SELECT id, ''::text AS predicted FROM pictures; "
        "UPDATE made SET predicted = t.predicted FROM {p} t WHERE t.id = made.id",
        "UPDATE 24",
    ),
    "delete": (
        "CREATE TABLE made AS SELECT id, predicted FROM stored UNION ALL SELECT 99, 'green'; "
        "DELETE FROM made USING {p} t WHERE t.id + 76 = made.id AND t.predicted IS NOT NULL AND made.predicted = 'green'",
        "DELETE 1",
    ),
    "merge": (
        "CREATE TABLE made (id int, predicted text); MERGE INTO made USING {p} s ON made.id = s.id "
        "WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.predicted)",
        "MERGE 24",
    ),
}
"""Position: statements, of which the last holds a PREDICT, and its tag; what it makes is `made`, with columns id and predicted."""


@pytest.mark.parametrize("bare", [False, True], ids=["parentheses", "bare"])
@pytest.mark.parametrize("position", STATEMENTS)
@pytest.mark.parametrize("binary", [False, True], ids=["simple", "extended"])
def test_statements(connection: Connection, position: str, binary: bool, bare: bool) -> None:
    pattern, tag = STATEMENTS[position]
    if bare and not re.search(r"(AS|made|VALUE) \{p\}", pattern):
        pytest.skip("this one needs its parentheses")
    *before, statement = pattern.format(p=P[1:-1] if bare else P).split("; ")
    connection.execute("BEGIN")
    for other in before:
        connection.execute(text(other))
    assert connection.execute(text(statement), binary=binary).statusmessage == tag
    expected = "SELECT id, predicted FROM stored" + (" WHERE false" if "NO DATA" in pattern else "")
    assert fetched(connection, "SELECT id, predicted FROM made ORDER BY id") == fetched(connection, f"{expected} ORDER BY id")
    connection.execute("ROLLBACK")
    assert left_behind(connection) == []


def test_insert_returning(connection: Connection) -> None:
    expected = fetched(connection, "SELECT id, predicted FROM stored ORDER BY id")
    with connection.transaction(force_rollback=True):
        ours = "INSERT INTO kept PREDICT USING colours AS SELECT id, image, label FROM pictures ORDER BY id RETURNING id, predicted"
        assert fetched(connection, ours) == expected


def test_insert_with_a_parameter_within(connection: Connection) -> None:
    with connection.transaction(force_rollback=True):
        ours = "INSERT INTO kept PREDICT USING colours AS SELECT id, image, label FROM pictures WHERE id < %s"
        assert connection.execute(ours, (5,)).rowcount == 5
        assert connection.execute(ours + " ON CONFLICT DO NOTHING", (7,), prepare=True).rowcount == 2


@pytest.mark.parametrize("options", ["", "(FORMAT csv, HEADER)", "(FORMAT binary)"], ids=["text", "csv", "binary"])
def test_copy(connection: Connection, options: str) -> None:
    def copied(source: str) -> bytes:
        with connection.cursor() as cursor, cursor.copy(text(f"COPY {source} TO STDOUT {options}")) as copy:
            return b"".join(bytes(part) for part in copy)

    ordered = P[:-1] + " ORDER BY id)"
    assert copied(ordered) == copied("(SELECT * FROM stored ORDER BY id)")
    assert copied(f"(SELECT predicted FROM {P} t ORDER BY id)") == copied("(SELECT predicted FROM stored ORDER BY id)")
    assert left_behind(connection) == []


class TestListModel:
    @pytest.mark.parametrize("form", ["LIST MODEL", "LIST THANOSQL MODEL"])
    def test_from(self, connection: Connection, form: str) -> None:
        assert fetched(connection, f"SELECT name, class_name FROM ({form}) WHERE name = 'colours'") == [("colours", "MobileNet_V2")]
        assert fetched(connection, f"SELECT class_name FROM ({form}) m WHERE name = %s", "colours") == [("MobileNet_V2",)]

    def test_beside_a_predict(self, connection: Connection) -> None:
        ours = f"WITH m AS (LIST MODEL) SELECT m.name, t.predicted FROM m, {P} t WHERE t.id = 1 AND m.name = 'colours'"
        assert fetched(connection, ours) == fetched(connection, "SELECT 'colours', predicted FROM stored WHERE id = 1")


class TestInsideAnother:
    INNER = "PREDICT USING colours OPTIONS (result_col='first') AS SELECT id, image FROM pictures ORDER BY id"

    def test_as_its_query(self, connection: Connection) -> None:
        expected = fetched(connection, "SELECT id, image, predicted, predicted FROM stored ORDER BY id")
        assert fetched(connection, f"PREDICT USING colours AS {self.INNER}") == expected
        assert fetched(connection, f"PREDICT USING colours AS SELECT * FROM ({self.INNER}) WHERE id < %s ORDER BY id", 9) == expected[:9]

    def test_in_a_hole(self, connection: Connection) -> None:
        ours = (
            f"SELECT count(*) FROM (PREDICT USING colours AS SELECT * FROM ({self.INNER}) x WHERE first = 'red') t WHERE predicted = first"
        )
        assert fetched(connection, ours) == fetched(connection, "SELECT count(*) FROM stored WHERE predicted = 'red'")

    def test_cte_that_reads_another(self, connection: Connection) -> None:
        ours = (
            f"PREDICT USING colours OPTIONS (result_col='third') AS WITH w AS ({self.INNER}), "
            "v AS (PREDICT USING colours AS SELECT * FROM w) SELECT * FROM v ORDER BY id"
        )
        assert fetched(connection, ours) == fetched(connection, "SELECT id, image, predicted, predicted, predicted FROM stored ORDER BY id")


class TestNamesOfTheStatementAround:
    """The hole's query may name the WITH items that are visible where it stands."""

    def test_cte(self, connection: Connection) -> None:
        ours = "WITH few AS (SELECT * FROM pictures WHERE id < %s), p AS (PREDICT USING colours AS SELECT id, image FROM few) TABLE p"
        for value in (3, 5):
            assert len(fetched(connection, ours, value)) == value

    def test_one_hole_reads_another(self, connection: Connection) -> None:
        ours = (
            f"WITH p AS {P}, q AS (PREDICT USING colours OPTIONS (result_col='again') AS SELECT * FROM p WHERE predicted = 'red') TABLE q"
        )
        assert {row[3:] for row in fetched(connection, ours)} == {("red", "red")}

    def test_recursive(self, connection: Connection) -> None:
        ours = (
            "WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < 4) "
            "SELECT id FROM (PREDICT USING colours AS SELECT image, id FROM n JOIN pictures USING (id)) t WHERE predicted <> '' ORDER BY 1"
        )
        assert fetched(connection, ours) == [(1,), (2,), (3,), (4,)]

    def test_an_item_that_changes_data_beside_it(self, connection: Connection) -> None:
        ours = (
            "WITH gone AS (DELETE FROM kept RETURNING id), few AS (SELECT * FROM pictures WHERE id < 3) "
            "SELECT count(predicted), (SELECT count(*) FROM gone) FROM (PREDICT USING colours AS SELECT image FROM few) t"
        )
        assert fetched(connection, ours) == [(3, 0)]

    def test_the_same_name_in_two_lists(self, connection: Connection) -> None:
        ours = (
            "WITH few AS (SELECT * FROM pictures WHERE id < 3) SELECT count(*) FROM few, "
            "(WITH few AS (SELECT * FROM pictures WHERE id < 2) SELECT * FROM (PREDICT USING colours AS SELECT image FROM few) t) o "
            "WHERE predicted <> ''"
        )
        assert fetched(connection, ours) == [(6,)]


class TestCursors:
    @pytest.mark.parametrize("hold", ["", "WITH HOLD"])
    @pytest.mark.parametrize("source", [f"SELECT id, predicted FROM {P} t ORDER BY id", P[1:-1] + " ORDER BY id"])
    def test_fetch_and_move(self, connection: Connection, hold: str, source: str) -> None:
        rows = fetched(connection, "SELECT id, predicted FROM stored ORDER BY id")

        def seen(statement: str) -> list[tuple[Any, ...]]:
            return [(row[0], row[-1]) for row in fetched(connection, statement)]

        connection.execute("BEGIN")
        connection.execute(text(f"DECLARE c SCROLL CURSOR {hold} FOR {source}"))
        assert seen("FETCH 3 FROM c") == rows[:3]
        assert connection.execute("MOVE 2 IN c").statusmessage == "MOVE 2"
        assert seen("FETCH c") == rows[5:6]
        assert seen("FETCH BACKWARD 2 FROM c") == [rows[4], rows[3]]
        # Another one does not take this one's tables away.
        assert fetched(connection, f"SELECT count(*) FROM {P} t WHERE predicted <> ''") == [(24,)]
        assert seen("FETCH LAST FROM c") == rows[-1:]
        connection.execute("COMMIT")
        assert left_behind(connection) == []
        if hold:
            assert seen("FETCH FIRST FROM c") == rows[:1]
            connection.execute("CLOSE c")

    def test_with_a_parameter(self, connection: Connection) -> None:
        with connection.transaction(), psycopg.ServerCursor(connection, "named") as cursor:
            cursor.execute(text(f"SELECT id, predicted FROM {P} t WHERE id < %s ORDER BY id"), (7,))
            cursor.itersize = 3
            assert list(cursor) == fetched(connection, "SELECT id, predicted FROM stored WHERE id < 7 ORDER BY id")

    def test_holdable_outside_a_block(self, connection: Connection) -> None:
        connection.execute(text(f"DECLARE h CURSOR WITH HOLD FOR {P[1:-1]}"))
        assert len(fetched(connection, "FETCH ALL FROM h")) == 24
        connection.execute("CLOSE h")

    def test_outside_a_block(self, connection: Connection) -> None:
        with pytest.raises(errors.NoActiveSqlTransaction):
            connection.execute(text(f"DECLARE c CURSOR FOR {P[1:-1]}"))


class TestNotPredicted:
    """Rows whose image does not exist fail the statement if they are predicted at all."""

    GOOD = (
        "SELECT count(*) FROM {p} t",
        "SELECT id FROM {p} t ORDER BY id",
        "SELECT t.id FROM {p} t JOIN pictures USING (id)",
        "SELECT * FROM {p} t LIMIT 3",
        "SELECT * FROM {p} t LIMIT 2 OFFSET 1",
        "SELECT id, predicted FROM {p} t ORDER BY id LIMIT 3",
        "SELECT * FROM (SELECT * FROM {p} t) o LIMIT 3",
        "SELECT * FROM {p} t WHERE id < 3",
        "SELECT predicted FROM {p} t WHERE t.id IN (0, 2) AND predicted <> 'green'",
        "SELECT predicted, count(*) FROM {p} t WHERE id <= 2 GROUP BY 1",
        "SELECT * FROM {p} t WHERE 1=0",
        "SELECT * FROM {p} t LIMIT 0",
        "SELECT EXISTS (SELECT FROM {p} t)",
        "CREATE TEMP TABLE few AS SELECT * FROM {p} t LIMIT 1",
        'declare "SQL_CUR9" cursor with hold for SELECT * FROM {p} "Custom SQL Query" WHERE (1 = 0)',
    )
    BAD = (
        "SELECT * FROM {p} t",
        "SELECT predicted FROM {p} t WHERE id < 4",
        "SELECT t FROM {p} t",
        "SELECT * FROM {p} t ORDER BY predicted LIMIT 3",
        "SELECT * FROM {p} t WHERE predicted = 'red' LIMIT 3",
        "SELECT max(predicted) FROM {p} t LIMIT 1",
        "SELECT DISTINCT predicted FROM {p} t LIMIT 1",
        "SELECT * FROM {p} t ORDER BY id DESC LIMIT 3",
        "SELECT * FROM {p} t WHERE id < 3 OR predicted = 'red'",
    )

    @pytest.mark.parametrize("statement", GOOD)
    def test_left_out(self, connection: Connection, statement: str) -> None:
        connection.execute(text(statement.format(p=BROKEN)))
        connection.execute(
            text(statement.format(p=BROKEN)), binary=True
        ) if "CREATE" not in statement and "declare" not in statement else None
        connection.execute("CLOSE ALL")

    def test_by_a_parameter(self, connection: Connection) -> None:
        assert len(fetched(connection, f"SELECT * FROM {BROKEN} t WHERE id < %s", 2)) == 2

    @pytest.mark.parametrize("statement", BAD)
    def test_needed(self, connection: Connection, statement: str) -> None:
        with pytest.raises(errors.UndefinedFile, match=r"gone\.png"):
            connection.execute(text(statement.format(p=BROKEN)))
        assert left_behind(connection) == []

    def test_without_predictions_a_read_only_transaction_will_do(self, connection: Connection) -> None:
        connection.execute("BEGIN READ ONLY")
        assert fetched(connection, f"SELECT count(*) FROM {P} t") == [(24,)]
        connection.execute("COMMIT")


ERRORS: list[tuple[str, str, str | None, str, str | None]] = [
    # statement, SQLSTATE, the text its position points at, message, hint (or a part of each)
    ("SELECT * FROM (PREDICT USING colours AS SELECT nope FROM pictures) t", "42703", "nope", 'column "nope"', None),
    ("SELECT id, nope FROM (PREDICT USING colours AS SELECT id, image FROM pictures) t", "42703", "nope", 'column "nope"', None),
    ("SELECT predicted FROM (PREDICT USING colours AS SELECT id, image FROM pictures) t WHERE t.nope", "42703", "t.nope", "nope", None),
    ("SELECT predicted FROM (PREDICT USING colours AS SELECT * FROM nowhere) t", "42P01", "nowhere", '"nowhere"', None),
    ("SELECT predicted FROM (PREDICT USING colours AS TABLE pictures) t JOIN nowhere USING (id)", "42P01", "nowhere", '"nowhere"', None),
    ("SELECT /* 😀 */ * FROM (PREDICT USING colours AS SELECT FROM WHERE) t", "42601", "WHERE", "syntax error", None),
    ("SELECT * FROM (PREDICT USING colours AS SELECT * FROM pictures WHERE) t", "42601", ") t", "syntax error", None),
    ("SELECT * FROM (PREDICT USING colours AS TABLE pictures) t WHER id = 1", "42601", "WHER id", "syntax error", None),
    ("INSERT INTO kept PREDICT USING colours AS SELECT * FROM pictures WHERE", "42601", "", "syntax error", None),
    ("SELECT * FROM (PREDICT USING nobody AS SELECT image FROM pictures) t", "42704", "nobody", "does not exist", "LIST MODEL"),
    ("SELECT 1 FROM (PREDICT USING colours OPTIONS (image='x') AS TABLE pictures) t", "42601", "image=", "unknown option", "image_col"),
    ("SELECT predicted FROM (PREDICT USING colours OPTIONS (image_col='x') AS TABLE pictures) t", "42703", "'x'", "no column", None),
    ("SELECT * FROM (PREDICT USING colours OPTIONS (result_col='id') AS TABLE pictures) t", "42701", "'id'", '"id"', "result_col"),
    ("SELECT * FROM (PREDICT USING colours AS SELECT id FROM pictures) t", "42703", None, 'no column "image"', "image_col"),
    ("SELECT * FROM (PREDICT USING colours AS SELECT image, 1 AS predicted FROM pictures) t", "42701", None, "predicted", "result_col"),
    ("SELECT * FROM (PREDICT USING colours AS DELETE FROM pictures) t", "42601", "DELETE", "expected a query", None),
    ("SELECT * FROM pictures p, LATERAL (PREDICT USING colours AS SELECT p.image) t", "0A000", "LATERAL", "LATERAL", None),
    ("SELECT * FROM pictures p, (PREDICT USING colours AS SELECT p.image) t", "42P01", "p.image", "p", None),
    ("SELECT (SELECT predicted FROM (PREDICT USING colours AS SELECT p.image) t) FROM pictures p", "42P01", "p.image", "p", "by itself"),
    (
        "WITH d AS (DELETE FROM kept RETURNING image) SELECT * FROM (PREDICT USING colours AS SELECT image FROM d) t",
        "0A000", "d AS", "changes data", None,
    ),
    ("SELECT predicted FROM (PREDICT USING colours AS SELECT 'gone.png' AS image) t", "58P01", None, "gone.png", None),
    ("SELECT predicted FROM (PREDICT USING colours AS SELECT image, 1/(id-3) FROM pictures) t", "22012", None, "division", None),
    ("SELECT 1/(id-3), predicted FROM (PREDICT USING colours AS TABLE pictures) t", "22012", None, "division", None),
    ("CREATE TABLE stored AS PREDICT USING colours AS TABLE pictures", "42P07", None, "already exists", None),
    ("INSERT INTO kept (id) PREDICT USING colours AS TABLE pictures", "42601", None, "more expressions", None),
    ("SELECT * FROM (SEARCH IMAGE USING colours AS TABLE pictures) t", "0A000", "SEARCH", "not supported yet", None),
    ("DO $$ BEGIN PERFORM predicted FROM (PREDICT USING colours AS TABLE pictures) t; END $$", "42601", None, "syntax error", None),
    ("CREATE RULE r AS ON DELETE TO kept DO PREDICT USING colours AS TABLE pictures", "0A000", "PREDICT", "CREATE RULE", "CREATE TABLE"),
]  # fmt: skip


@pytest.mark.parametrize("way", ["simple", "prepared", "in a block"])
@pytest.mark.parametrize(("statement", "sqlstate", "place", "message", "hint"), ERRORS, ids=[case[0][:90] for case in ERRORS])
def test_errors(connection: Connection, statement: str, sqlstate: str, place: str | None, message: str, hint: str | None, way: str) -> None:
    if way == "in a block":
        connection.execute("BEGIN")
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(text(statement), prepare=way == "prepared", binary=way == "prepared")
    diag = caught.value.diag
    assert diag.sqlstate == sqlstate, diag.message_primary
    assert message in (diag.message_primary or "")
    assert hint is None or hint in (diag.message_hint or "")
    if place is not None:
        assert diag.statement_position == str(statement.rindex(place) + 1 if place else len(statement) + 1)
    if way == "in a block":
        assert connection.info.transaction_status == TransactionStatus.INERROR
        connection.execute("ROLLBACK")
    assert fetched(connection, "SELECT 'usable'") == [("usable",)]
    assert left_behind(connection) == []


class TestTransactions:
    def test_a_failing_image_fails_the_transaction(self, connection: Connection) -> None:
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE never (a int)")
        with pytest.raises(errors.UndefinedFile):
            connection.execute(text(f"SELECT predicted FROM {BROKEN} t"))
        assert connection.info.transaction_status == TransactionStatus.INERROR
        connection.execute("ROLLBACK")
        assert fetched(connection, "SELECT to_regclass('never')") == [(None,)]

    def test_savepoints(self, connection: Connection) -> None:
        notices: list[str] = []
        connection.add_notice_handler(lambda diag: notices.append(diag.message_primary or ""))
        count = f"SELECT count(*) FROM {P} t WHERE predicted <> ''"
        connection.execute("BEGIN")
        assert fetched(connection, count) == [(24,)]
        connection.execute("SAVEPOINT s")
        assert fetched(connection, count) == [(24,)]
        with pytest.raises(errors.UndefinedFile):
            connection.execute(text(f"SELECT predicted FROM {BROKEN} t"))
        connection.execute("ROLLBACK TO s")
        assert fetched(connection, count) == [(24,)]
        connection.execute("ROLLBACK TO s")
        assert fetched(connection, count + " AND id < %s", 5) == [(5,)]
        connection.execute("COMMIT")
        assert notices == []
        assert left_behind(connection) == []

    def test_tables_do_not_pile_up_in_a_long_transaction(self, connection: Connection) -> None:
        connection.execute("BEGIN")
        for i in range(5):
            assert len(fetched(connection, f"SELECT predicted FROM {P} t")) == 24
            assert len(fetched(connection, f"SELECT predicted FROM {P} t WHERE id < %s", i, prepare=True)) == i
        assert len(left_behind(connection)) <= 4
        connection.execute("COMMIT")

    def test_another_role_meanwhile(self, connection: Connection, module_database: Database) -> None:
        role, _ = module_database.add_role()
        module_database.execute(f"GRANT SELECT ON pictures TO {role}")
        count = f"SELECT count(*) FROM {P} t WHERE predicted <> ''"
        connection.execute(
            text(f"INSERT INTO thanosql.model_grant (name, owner, grantee) SELECT name, owner, '{role}' FROM thanosql.model")
        )
        with connection.transaction():
            assert fetched(connection, count) == [(24,)]
            connection.execute(text(f"SET LOCAL ROLE {role}"))
            assert fetched(connection, count) == [(24,)]
            assert fetched(connection, count) == [(24,)]
            connection.execute("RESET ROLE")
            assert fetched(connection, count) == [(24,)]

    def test_what_the_transaction_did_is_seen(self, connection: Connection) -> None:
        with connection.transaction(force_rollback=True):
            connection.execute("DELETE FROM pictures WHERE id > 3")
            assert len(fetched(connection, f"SELECT predicted FROM {P} t")) == 4

    def test_repeatable_read(self, connection: Connection) -> None:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        assert len(fetched(connection, f"SELECT predicted FROM {P} t")) == 24
        connection.execute("COMMIT")


class TestPipelines:
    def test_in_the_middle(self, connection: Connection) -> None:
        with connection.pipeline():
            before = connection.execute("SELECT 'a'")
            ours = connection.execute(text(f"SELECT id, predicted FROM {P} t WHERE id < %s ORDER BY id"), (3,))
            after = connection.execute("SELECT 'b'")
            assert (before.fetchall(), after.fetchall()) == ([("a",)], [("b",)])
            assert ours.fetchall() == fetched(connection, "SELECT id, predicted FROM stored WHERE id < 3 ORDER BY id")

    def test_a_failure_skips_to_the_sync(self, url: str) -> None:
        with RawClient(url) as raw:
            plain = (parse("SELECT 'a'"), bind(), execute(b""))
            ours = (parse(f"SELECT predicted FROM {BROKEN} t"), bind(), execute(b""))
            replies = raw.talk(*plain, *ours, *plain, SYNC, *plain, SYNC, ready=2)
            assert replies[:5] == ["1", "2", "D[a]", "C[SELECT 1]", "1"]
            assert replies[5].startswith("E[58P01")
            assert replies[6:] == ["Z[I]", "1", "2", "D[a]", "C[SELECT 1]", "Z[I]"]

    def test_messages_one_by_one(self, url: str) -> None:
        with RawClient(url) as raw:
            statement = f"SELECT id, predicted FROM {P} t WHERE id < $1 ORDER BY id"
            described = "T[id:23/0,predicted:25/0]"
            assert raw.talk(parse(statement, "s"), describe(b"S", b"s"), SYNC) == ["1", "t[23]", described, "Z[I]"]
            raw.talk(query(b"BEGIN"))
            first = raw.talk(bind((b"5",), portal="p", name="s"), describe(b"P", b"p"), execute(b"p", 2), SYNC)
            assert [reply[0] for reply in first] == ["2", "T", "D", "D", "s", "Z"]
            second = raw.talk(bind((b"1",), name="s"), execute(b""), execute(b"p", 2), SYNC)
            assert [reply[0] for reply in second] == ["2", "D", "C", "D", "D", "s", "Z"]
            assert raw.talk(execute(b"p"), close(b"P", b"p"), SYNC)[1:] == ["C[SELECT 1]", "3", "Z[T]"]
            assert raw.talk(query(b"COMMIT"))[-1] == "Z[I]"
            assert raw.talk(close(b"S", b"s"), SYNC) == ["3", "Z[I]"]

    def test_a_parameter_in_a_simple_query(self, url: str) -> None:
        with RawClient(url) as raw:
            replies = raw.talk(query(f"SELECT predicted FROM {P} t WHERE id < $1".encode()))
            assert [reply[0] for reply in replies] == ["E", "Z"]
            assert raw.talk(query(b"SELECT 1"))[-1] == "Z[I]"

    def test_the_wrong_number_of_parameters(self, url: str) -> None:
        with RawClient(url) as raw:
            replies = raw.talk(parse(f"SELECT predicted FROM {P} t WHERE id < $1"), bind(), execute(b""), SYNC)
            assert replies[1].startswith("E[08P01")
            assert raw.talk(query(b"SELECT 1"))[-1] == "Z[I]"


class TestStopping:
    MANY = "PREDICT USING colours AS SELECT image FROM pictures, generate_series(1, 100000)"

    @pytest.mark.parametrize("statement", [f"SELECT predicted FROM ({MANY}) t", f"CREATE TABLE never AS {MANY}"])
    @pytest.mark.parametrize("binary", [False, True], ids=["simple", "extended"])
    def test_cancel(self, connection: Connection, statement: str, binary: bool) -> None:
        timer = Timer(1.5, connection.cancel_safe)
        timer.start()
        start = time.monotonic()
        with pytest.raises(errors.QueryCanceled, match="user request"):
            connection.execute(text(statement), binary=binary)
        assert time.monotonic() - start < 3.5
        timer.join()
        assert fetched(connection, "SELECT to_regclass('never')") == [(None,)]
        assert left_behind(connection) == []

    def test_statement_timeout(self, connection: Connection) -> None:
        connection.execute("SET statement_timeout = '900ms'")
        start = time.monotonic()
        with pytest.raises(errors.QueryCanceled, match="statement timeout"):
            connection.execute(text(f"SELECT predicted FROM ({self.MANY}) t"))
        assert time.monotonic() - start < 2.9
        assert left_behind(connection) == []

    def test_cancel_while_the_predictions_are_copied(self, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
        async def slow(_: object) -> AsyncIterator[bytes]:
            yield b"(0,1)\tred\n"
            await asyncio.sleep(10)

        monkeypatch.setattr(sheet.Sheet, "parts", slow)
        timer = Timer(0.7, connection.cancel_safe)
        timer.start()
        start = time.monotonic()
        with pytest.raises(errors.QueryCanceled, match="user request"):
            connection.execute(text(f"SELECT predicted FROM {P} t"))
        assert time.monotonic() - start < 2.7
        timer.join()
        assert left_behind(connection) == []

    def test_cancel_of_the_statement_around(self, connection: Connection) -> None:
        timer = Timer(1.0, connection.cancel_safe)
        timer.start()
        with pytest.raises(errors.QueryCanceled):
            connection.execute(text(f"SELECT predicted, pg_sleep(10) FROM {P} t LIMIT 2"))
        timer.join()
        assert fetched(connection, "SELECT 1") == [(1,)]


class TestTypesAndNames:
    def test_types_are_untouched(self, connection: Connection) -> None:
        connection.execute("CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE pair AS (a int, b text); CREATE DOMAIN few AS int")
        row = (
            "SELECT image, ARRAY[1,NULL,3] AS a, ARRAY[['x','y']] AS b, ROW(1, 'zwei')::pair AS c, 1.50::numeric(9,4) AS d, "
            "'2024-02-29 12:00+02'::timestamptz AS e, '\\x00ff'::bytea AS f, 'glad'::mood AS g, 'ab'::char(4) AS h, "
            "'ab'::varchar(3) AS i, 'infinity'::float8 AS j, '1 day'::interval AS k, '{\"a\": 1}'::jsonb AS l, NULL AS m, 7::few AS n, "
            "'[1,2)'::int4range AS o, '127.0.0.1'::inet AS p, E'tab\\tback\\\\slash\\n' AS q FROM pictures WHERE id < 2"
        )
        columns = "a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q"
        kinds = ", ".join(f"pg_typeof({column})::text" for column in columns.split(", "))
        for wanted in (columns, kinds):
            for binary in (False, True):
                ours = connection.execute(
                    text(f"SELECT {wanted} FROM (PREDICT USING colours AS {row}) t WHERE predicted <> ''"), binary=binary
                )
                plain = connection.execute(text(f"SELECT {wanted} FROM ({row}) t"), binary=binary)
                assert [(c.name, c.type_code, c.internal_size, c.precision) for c in ours.description or ()] == [
                    (c.name, c.type_code, c.internal_size, c.precision) for c in plain.description or ()
                ]
                assert ours.fetchall() == plain.fetchall()

    @pytest.mark.parametrize(("value", "kind"), [("ROW(1, 2)", "record"), ("pg_notify('', '')", "void")])
    def test_types_that_no_table_has(self, connection: Connection, value: str, kind: str) -> None:
        ours = f'SELECT predicted FROM (PREDICT USING colours AS SELECT image, {value} AS "Ein r" FROM pictures) t'
        with pytest.raises(errors.InvalidTableDefinition, match=f'column "Ein r" has pseudo-type {kind}'):
            connection.execute(text(ours))

    def test_1600_columns(self, connection: Connection) -> None:
        wide = ", ".join(f"{i} AS c{i}" for i in range(1599))
        ours = f"SELECT * FROM (PREDICT USING colours AS SELECT image, {wide} FROM pictures WHERE id < 3) t"
        for row in fetched(connection, ours):
            assert row[1:1600] == tuple(range(1599))
            assert row[1600] in ("red", "blue")

    @pytest.mark.parametrize("name", ["Größe", "😀", 'quo"te', "back\\slash", "select", "CamelCase", "%s {x}"])
    def test_names(self, connection: Connection, name: str) -> None:
        quoted = '"' + name.replace('"', '""') + '"'
        inner = f"PREDICT USING colours AS SELECT image, id AS {quoted} FROM pictures"
        ours = f"SELECT t.{quoted}, t.predicted AS {quoted} FROM ({inner}) t WHERE {quoted} < 2 ORDER BY t.{quoted} LIMIT 5"
        cursor = connection.execute(text(ours))
        assert [column.name for column in cursor.description or ()] == [name, name]
        assert [row[0] for row in cursor] == [0, 1]

    def test_result_col(self, connection: Connection) -> None:
        ours = (
            "SELECT \"Was ist es\" FROM (PREDICT USING colours OPTIONS (result_col='Was ist es') AS SELECT image FROM pictures) t LIMIT 1"
        )
        assert fetched(connection, ours)[0][0] in ("red", "blue")

    def test_no_rows(self, connection: Connection) -> None:
        assert fetched(connection, "SELECT * FROM (PREDICT USING colours AS SELECT * FROM pictures WHERE false) t") == []
        assert fetched(connection, "SELECT max(predicted) FROM (PREDICT USING colours AS SELECT * FROM pictures WHERE false) t") == [
            (None,)
        ]

    def test_null_images_keep_their_place(self, connection: Connection) -> None:
        ours = "PREDICT USING colours AS SELECT id, CASE WHEN id % 2 = 0 THEN image END AS image FROM pictures ORDER BY id DESC"
        found = fetched(connection, f"SELECT id, predicted IS NULL FROM ({ours}) t")
        assert found == [(i, i % 2 == 1) for i in range(23, -1, -1)]

    def test_two_columns_of_one_name(self, connection: Connection) -> None:
        ours = "SELECT * FROM (PREDICT USING colours AS SELECT image, id AS x, label AS x FROM pictures) t WHERE predicted <> '' LIMIT 1"
        cursor = connection.execute(text(ours))
        assert [column.name for column in cursor.description or ()] == ["image", "x", "x", "predicted"]

    def test_a_client_of_another_encoding(self, connection: Connection) -> None:
        connection.execute("SET client_encoding TO latin1")
        ours = "SELECT predicted, 'ü' AS \"Größe\" FROM (PREDICT USING colours AS SELECT image FROM pictures WHERE label <> 'ä') t LIMIT 1"
        cursor = connection.execute(text(ours))
        assert [column.name for column in cursor.description or ()] == ["predicted", "Größe"]
        assert cursor.fetchall()[0][1] == "ü"

    def test_predictions_that_do_not_fit_in_memory(self, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sheet, "_IN_MEMORY", 1)
        monkeypatch.setattr(sheet, "_PART", 7)
        assert fetched(connection, f"SELECT id, predicted FROM {P} t ORDER BY id") == fetched(
            connection, "SELECT id, predicted FROM stored ORDER BY id"
        )


def test_a_role_that_may_make_no_temporary_tables(proxy: Proxy, url: str, module_database: Database) -> None:
    role, _ = module_database.add_role()
    module_database.execute(
        f"REVOKE TEMPORARY ON DATABASE {module_database.name} FROM PUBLIC",
        f"GRANT SELECT ON pictures, stored TO {role}; GRANT USAGE ON SCHEMA thanosql TO {role}",
        f"INSERT INTO thanosql.model_grant (name, owner, grantee, privilege) SELECT name, owner, '{role}', 'USAGE' FROM thanosql.model",
        f"ALTER ROLE {role} PASSWORD 'secret'",
    )
    with psycopg.connect(proxy.url(module_database, role, "secret"), autocommit=True) as connection:
        for binary in (False, True):
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(text(f"SELECT predicted FROM {P} t"), binary=binary)
        assert fetched(connection, "SELECT count(*) FROM stored") == [(24,)]
    module_database.execute(f"GRANT TEMPORARY ON DATABASE {module_database.name} TO PUBLIC")


def test_connections_do_not_share_anything(url: str) -> None:
    with psycopg.connect(url) as one, psycopg.connect(url) as two:
        ours = f"SELECT id, predicted FROM {P} t ORDER BY id"
        assert fetched(one, ours) == fetched(two, ours)
