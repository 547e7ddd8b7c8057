"""Where a PREDICT may stand inside other SQL: each row of the table in docs/sql.md, and the statements that stand for it.

The table is made from POSITIONS (tests/test_docs.py), and tests/clients/test_positions.py runs every case in every cell with every
client.  Table `photos` has a few pictures, and `stored` the same with what the model says of each.  What must come out is never written
down: it is what PostgreSQL answers to the same statement with a join of the two in the place of PREDICT.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from thanoproxy.catalog.store import LISTED, describe_model

__all__ = ["MODES", "POSITIONS", "REFUSED", "YES", "Case", "Position", "as_stored"]

MODES = ("simple", "extended", "prepared")
"""The columns of the table: a simple Query; Parse, Bind and Execute of the unnamed statement; a named one, run again."""

YES = "yes"
REFUSED = "`0A000`"

PREDICT = "PREDICT USING colours AS SELECT id, image, label FROM photos"
STORED = r"SELECT id, image, label, predicted FROM \1 NATURAL JOIN stored"
DESCRIBED = describe_model("colours", None)

_PREDICT = re.compile(PREDICT.replace("photos", r"(\w+)"))
MODELS = f"SELECT {', '.join(LISTED)} FROM thanosql.models"


def as_stored(text: str) -> str:
    """The text with ordinary queries in the place of ours."""
    return _PREDICT.sub(STORED, text).replace("LIST MODEL", MODELS).replace("DESCRIBE MODEL colours", DESCRIBED)


@dataclass(frozen=True)
class Case:
    """One statement."""

    text: str
    """It, with `$1` where a number may stand; such a case is run with a literal there, and as a parameter."""
    twin: str = ""
    """What answers the same without us, where that is not just the text with STORED in it."""
    before: tuple[str, ...] = ()
    """What comes before the first run."""
    after: tuple[str, ...] = ()
    """Ordinary SQL after each run, whose answers show what it did."""
    undo: tuple[str, ...] = ()
    """Ordinary SQL that makes another run possible."""
    shows: str = ""
    """A regular expression: what of the answer is compared, where that is not all of it."""

    @property
    def stored(self) -> str:
        """The statement that answers the same without us."""
        return self.twin or as_stored(self.text)


@dataclass(frozen=True)
class Position:
    """A row of the table: its first two cells, those for MODES, and its cases by name."""

    title: str
    example: str
    cells: tuple[str, str, str]
    cases: Mapping[str, Case]


def of_made(text: str, *before: str) -> Case:
    """One that writes to table `made`, which is there `before` it."""
    return Case(text, before=before, after=("TABLE made ORDER BY 1",))


def making(text: str) -> Case:
    """One that makes table `made`."""
    return Case(text, after=("TABLE made ORDER BY 1",), undo=("DROP TABLE made",))


KEYED = "CREATE TABLE made (id int PRIMARY KEY, image text, label text, predicted text)"
PLAIN = "CREATE TABLE made (id int, image text, label text, predicted text)"
UNSURE = "CREATE TABLE made AS SELECT id, ''::text AS predicted FROM photos UNION ALL SELECT 99, 'green'"
SEEN_OF_CURSOR = ("FETCH 2 FROM c", "MOVE 3 IN c", "FETCH c")
SEEN_BACKWARD = (*SEEN_OF_CURSOR, "FETCH BACKWARD 2 FROM c", "FETCH LAST FROM c", "FETCH ABSOLUTE 1 FROM c")


def declaring(text: str, seen: tuple[str, ...]) -> Case:
    """One that declares cursor `c`, in a block."""
    return Case(text, before=("BEGIN",), after=seen, undo=("CLOSE c",))


def viewing(text: str) -> Case:
    """One that makes view `made`."""
    return Case(text, after=("SELECT id, predicted FROM made WHERE id < 7 ORDER BY id",), undo=("DROP VIEW made",))


def of_view(text: str, after: str = "", undo: str = "") -> Case:
    """One that reads view `made`, or `counted`, which reads that."""
    views = (f"CREATE VIEW made AS {PREDICT}", "CREATE VIEW counted AS SELECT predicted, count(*) AS n FROM made GROUP BY predicted")
    return Case(text, before=views, after=(after,) if after else (), undo=(undo,) if undo else ())


def refreshing(text: str) -> Case:
    """One that brings materialized view `made` up to date."""
    return Case(
        text,
        before=(
            "CREATE TABLE few AS SELECT * FROM photos WHERE id < 4",
            f"CREATE MATERIALIZED VIEW made AS {PREDICT.replace('photos', 'few')}",
            "CREATE UNIQUE INDEX ON made (id)",
            "INSERT INTO few SELECT * FROM photos WHERE id BETWEEN 4 AND 9",
        ),
        after=("TABLE made ORDER BY 1",),
        undo=("DELETE FROM few WHERE id < 6",),
    )


def explaining(text: str, told: str) -> Case:
    """One whose line of ours is compared: what the model is, and what `told` is of it."""
    ours = f"SELECT 'Predict using ' || name || '@' || version || ' (' || class_name || '): ' || {told} FROM thanosql.models"
    return Case(text, twin=f"{ours} WHERE name = 'colours'", shows=r"Predict using \S+ \(\w+\): (?:rows=\d+|[a-z ]+)")


COUNTED = "'rows=' || (SELECT count(*) FROM stored WHERE id < $1)"


POSITIONS = (
    Position(
        "FROM, JOIN; also without alias, with column aliases",
        "`SELECT a FROM (PREDICT …) AS t (a, b)`",
        (YES, YES, YES),
        {
            "from": Case(f"SELECT t.id, t.predicted FROM ({PREDICT}) AS t WHERE t.id < $1 ORDER BY t.id"),
            "from without alias": Case(f"SELECT id, predicted FROM ({PREDICT}) WHERE id < $1 ORDER BY id"),
            "from with column aliases": Case(f"SELECT a, d FROM ({PREDICT}) AS t (a, b, c, d) WHERE a < $1 ORDER BY a"),
            "from, every column, parameter within": Case(f"SELECT * FROM ({PREDICT} WHERE id < $1) t ORDER BY predicted, id"),
            "from, filtered by the prediction": Case(f"SELECT id FROM ({PREDICT}) t WHERE predicted = 'red' AND id < $1 ORDER BY id"),
            "from, grouped": Case(f"SELECT predicted, count(*) FROM ({PREDICT}) t WHERE id < $1 GROUP BY predicted ORDER BY 1"),
            "join": Case(f"SELECT k.id, t.predicted FROM photos k JOIN ({PREDICT}) t USING (id) WHERE k.id < $1 ORDER BY 1"),
            "left join": Case(f"SELECT k.id, t.predicted FROM photos k LEFT JOIN ({PREDICT} WHERE id < $1) t USING (id) ORDER BY 1"),
            "join without alias": Case(f"SELECT id, predicted FROM ({PREDICT}) NATURAL JOIN photos WHERE id < $1 ORDER BY 1"),
            "join of two": Case(
                f"SELECT a.id, b.predicted FROM ({PREDICT}) a JOIN ({PREDICT}) b ON a.id = b.id + 1 WHERE a.id < $1 ORDER BY 1"
            ),
            "comma": Case(f"SELECT k.id, t.predicted FROM photos k, ({PREDICT}) t WHERE k.id = t.id AND k.id < $1 ORDER BY 1"),
        },
    ),
    Position(
        "CTE, several, nested",
        "`WITH p AS (PREDICT …) SELECT …`",
        (YES, YES, YES),
        {
            "cte": Case(f"WITH p AS ({PREDICT}) SELECT id, predicted FROM p WHERE id < $1 ORDER BY id"),
            "cte with column names": Case(f"WITH p (a, b, c, d) AS MATERIALIZED ({PREDICT}) SELECT a, d FROM p WHERE a < $1 ORDER BY a"),
            "several cte": Case(
                f"WITH p AS ({PREDICT}), q AS ({PREDICT} WHERE id < $1) SELECT p.id, q.predicted FROM p JOIN q USING (id) ORDER BY id"
            ),
            "nested cte": Case(f"WITH o AS (WITH p AS ({PREDICT}) SELECT * FROM p WHERE id < $1) SELECT id, predicted FROM o ORDER BY id"),
            "query of a cte": Case(
                "WITH few AS (SELECT * FROM photos WHERE id < $1), p AS (PREDICT USING colours AS SELECT id, image, label FROM few) "
                "SELECT id, predicted FROM p ORDER BY id"
            ),
            "recursive cte": Case(
                f"WITH RECURSIVE r AS (SELECT id, predicted FROM ({PREDICT}) t WHERE id = 0 UNION ALL "
                f"SELECT t.id, t.predicted FROM r JOIN ({PREDICT}) t ON t.id = r.id + 1 WHERE t.id < $1) SELECT * FROM r ORDER BY id"
            ),
        },
    ),
    Position(
        "subquery: scalar, `IN`, `EXISTS`, `ARRAY`",
        "`WHERE id IN (SELECT id FROM (PREDICT …))`",
        (YES, YES, YES),
        {
            "scalar": Case(f"SELECT (SELECT max(predicted) FROM ({PREDICT}) t WHERE id < $1) AS most"),
            "correlated": Case(
                f"SELECT id, (SELECT predicted FROM ({PREDICT}) t WHERE t.id = k.id) FROM photos k WHERE id < $1 ORDER BY 1"
            ),
            "in": Case(f"SELECT id FROM photos WHERE id IN (SELECT id FROM ({PREDICT}) WHERE predicted = 'red') AND id < $1 ORDER BY id"),
            "not in": Case(f"SELECT id FROM stored WHERE (id, image, label, predicted) NOT IN ({PREDICT} WHERE id < $1) ORDER BY id"),
            "exists": Case(
                f"SELECT id FROM photos k WHERE EXISTS (SELECT FROM ({PREDICT}) t WHERE t.id = k.id AND predicted = 'red') "
                "AND id < $1 ORDER BY id"
            ),
            "array": Case(f"SELECT ARRAY(SELECT predicted FROM ({PREDICT}) t WHERE id < $1 ORDER BY id)"),
            "any": Case(f"SELECT id FROM photos WHERE id < $1 AND label = ANY (SELECT predicted FROM ({PREDICT}) t) ORDER BY id"),
        },
    ),
    Position(
        "set operation, in parentheses",
        "`SELECT … UNION (PREDICT …)`",
        (YES, YES, YES),
        {
            "ordered behind its parentheses": Case(f"({PREDICT} WHERE id < $1) ORDER BY predicted, id"),
            "cut behind its parentheses": Case(f"({PREDICT} WHERE id < $1 ORDER BY id) OFFSET 1 LIMIT 3"),
            "ordered and cut within others": Case(f"SELECT id, predicted FROM (({PREDICT}) ORDER BY id LIMIT $1) t ORDER BY predicted, id"),
            "union": Case(f"SELECT 99 AS id, 'i' AS image, 'l' AS label, 'p' AS predicted UNION ({PREDICT} WHERE id < $1) ORDER BY id"),
            "union all of two": Case(f"({PREDICT} WHERE id < $1) UNION ALL ({PREDICT} WHERE id > 9) ORDER BY 1"),
            "except": Case(f"({PREDICT} WHERE id < $1) EXCEPT SELECT * FROM stored WHERE predicted = 'red' ORDER BY 1"),
            "intersect": Case(f"SELECT * FROM stored WHERE predicted = 'red' INTERSECT ({PREDICT} WHERE id < $1) ORDER BY 1"),
            "of selects": Case(
                f"SELECT id, label FROM photos WHERE id < $1 EXCEPT ALL SELECT id, predicted FROM ({PREDICT}) t WHERE id > 2 ORDER BY 1"
            ),
        },
    ),
    Position(
        "query of another PREDICT",
        "`PREDICT USING a AS PREDICT USING b AS …`",
        (YES, YES, YES),
        {
            "its query": Case(
                f"PREDICT USING colours OPTIONS (result_col='again') AS {PREDICT} WHERE id < $1 ORDER BY id",
                twin="SELECT id, image, label, predicted, predicted AS again FROM stored WHERE id < $1 ORDER BY id",
            ),
            "in its query": Case(
                f"PREDICT USING colours OPTIONS (result_col='again') AS SELECT id, image FROM ({PREDICT}) p "
                "WHERE predicted = 'red' AND id < $1 ORDER BY id",
                twin="SELECT id, image, predicted AS again FROM stored WHERE predicted = 'red' AND id < $1 ORDER BY id",
            ),
            "in other sql": Case(
                f"SELECT id, again FROM (PREDICT USING colours OPTIONS (result_col='again') AS {PREDICT}) t WHERE id < $1 ORDER BY id",
                twin="SELECT id, predicted AS again FROM stored WHERE id < $1 ORDER BY id",
            ),
        },
    ),
    Position(
        "`CREATE [TEMP] TABLE … AS`, `SELECT INTO`",
        "`CREATE TABLE t AS PREDICT …`",
        (YES, YES, YES),
        {
            "create table": making(f"CREATE TABLE made AS {PREDICT} WHERE id < $1"),
            "create temp table": making(f"CREATE TEMP TABLE made (a, b, c, d) ON COMMIT PRESERVE ROWS AS ({PREDICT} WHERE id < $1)"),
            "create table of a select": making(
                f"CREATE UNLOGGED TABLE IF NOT EXISTS made AS SELECT id, predicted FROM ({PREDICT}) t WHERE id < $1"
            ),
            "create table with data": making(f"CREATE TABLE made AS {PREDICT} WHERE id < $1 WITH DATA"),
            "create table with no data": making(f"CREATE TABLE made AS ({PREDICT} WHERE id < $1) WITH NO DATA"),
            "create table in order": making(f"CREATE TABLE made AS ({PREDICT} WHERE id < $1) ORDER BY predicted DESC, id"),
            "create table of a cte": making(f"CREATE TABLE made AS WITH p AS ({PREDICT}) SELECT id, predicted FROM p WHERE id < $1"),
            "select into": making(f"SELECT id, predicted INTO made FROM ({PREDICT}) t WHERE id < $1"),
            "select into temp": making(f"SELECT * INTO TEMP TABLE made FROM ({PREDICT}) WHERE id < $1"),
        },
    ),
    Position(
        "`INSERT`, with `RETURNING`, `ON CONFLICT`",
        "`INSERT INTO t PREDICT …`",
        (YES, YES, YES),
        {
            "insert": of_made(f"INSERT INTO made {PREDICT} WHERE id < $1", PLAIN),
            "insert in parentheses": of_made(f"INSERT INTO made ({PREDICT} WHERE id < $1)", PLAIN),
            "insert columns": of_made(
                f"INSERT INTO made (id, predicted) SELECT id, predicted FROM ({PREDICT}) t WHERE id < $1",
                "CREATE TABLE made (x int DEFAULT 7, predicted text, id int)",
            ),
            "insert overriding": of_made(
                f"INSERT INTO made OVERRIDING SYSTEM VALUE {PREDICT} WHERE id < $1",
                "CREATE TABLE made (id int GENERATED ALWAYS AS IDENTITY, image text, label text, predicted text)",
            ),
            "insert returning": of_made(f"INSERT INTO made {PREDICT} WHERE id < $1 ORDER BY id RETURNING id, predicted AS seen", PLAIN),
            "insert on conflict do nothing": of_made(f"INSERT INTO made {PREDICT} WHERE id < $1 ON CONFLICT DO NOTHING", KEYED),
            "insert on conflict do update": of_made(
                f"INSERT INTO made {PREDICT} WHERE id < $1 ORDER BY id ON CONFLICT (id) DO UPDATE "
                "SET predicted = excluded.predicted || '!' RETURNING id, predicted",
                KEYED,
                "INSERT INTO made VALUES (1, 'a', 'b', 'c')",
            ),
            "insert behind with": of_made(
                f"WITH p AS ({PREDICT}) INSERT INTO made SELECT * FROM p WHERE id < $1 ORDER BY id RETURNING id", PLAIN
            ),
            "insert within with": of_made(
                f"WITH w AS (INSERT INTO made {PREDICT} WHERE id < $1 RETURNING id) SELECT count(*) FROM w", PLAIN
            ),
        },
    ),
    Position(
        "`UPDATE … FROM`, `DELETE … USING`, `MERGE … USING`",
        "`UPDATE t SET … FROM (PREDICT …) p WHERE …`",
        (YES, YES, YES),
        {
            "update": of_made(f"UPDATE made SET predicted = p.predicted FROM ({PREDICT}) p WHERE p.id = made.id AND p.id < $1", UNSURE),
            "update from a subquery": of_made(
                f"UPDATE made SET predicted = (SELECT predicted FROM ({PREDICT}) p WHERE p.id = made.id) WHERE id < $1", UNSURE
            ),
            "delete": of_made(f"DELETE FROM made USING ({PREDICT}) p WHERE p.id = made.id AND p.predicted = 'red' AND p.id < $1", UNSURE),
            "delete in": of_made(f"DELETE FROM made WHERE id IN (SELECT id FROM ({PREDICT}) WHERE predicted = 'red' AND id < $1)", UNSURE),
            "merge": of_made(
                f"MERGE INTO made USING ({PREDICT} WHERE id < $1) p ON made.id = p.id WHEN MATCHED AND p.predicted = 'red' THEN DELETE "
                "WHEN MATCHED THEN UPDATE SET predicted = p.predicted WHEN NOT MATCHED THEN INSERT VALUES (p.id, p.predicted)",
                "CREATE TABLE made AS SELECT id, ''::text AS predicted FROM photos WHERE id > 4",
            ),
        },
    ),
    Position(
        "`COPY … TO STDOUT`, in text, CSV and binary",
        "`COPY (PREDICT …) TO STDOUT`",
        (YES, YES, "PostgreSQL takes no parameters"),
        {
            "copy": Case(f"COPY ({PREDICT} WHERE id < $1 ORDER BY id) TO STDOUT"),
            "copy csv": Case(f"COPY ({PREDICT} WHERE id < $1 ORDER BY id) TO STDOUT (FORMAT csv, HEADER)"),
            "copy binary": Case(f"COPY ({PREDICT} WHERE id < $1 ORDER BY id) TO STDOUT (FORMAT binary)"),
            "copy of a select": Case(f"COPY (SELECT predicted, id FROM ({PREDICT}) t WHERE id < $1 ORDER BY id) TO STDOUT"),
        },
    ),
    Position(
        "`DECLARE CURSOR`, also `SCROLL` and `WITH HOLD`",
        "`DECLARE c CURSOR FOR PREDICT …`",
        (YES, YES, YES),
        {
            "cursor": declaring(f"DECLARE c CURSOR FOR {PREDICT} WHERE id < $1 ORDER BY id", SEEN_OF_CURSOR),
            "cursor of a select": declaring(
                f"DECLARE c CURSOR FOR SELECT predicted, id FROM ({PREDICT}) t WHERE id < $1 ORDER BY id", SEEN_OF_CURSOR
            ),
            "scroll cursor": declaring(f"DECLARE c SCROLL CURSOR FOR ({PREDICT} WHERE id < $1 ORDER BY id)", SEEN_BACKWARD),
            "holdable cursor": Case(
                f"DECLARE c SCROLL CURSOR WITH HOLD FOR {PREDICT} WHERE id < $1 ORDER BY id",
                before=("BEGIN",),
                after=(*SEEN_OF_CURSOR, "COMMIT", *SEEN_BACKWARD),
                undo=("CLOSE c", "BEGIN"),
            ),
            "holdable cursor outside of a block": Case(
                f"DECLARE c CURSOR WITH HOLD FOR SELECT id, predicted FROM ({PREDICT}) t WHERE id < $1 ORDER BY id",
                after=SEEN_OF_CURSOR,
                undo=("CLOSE c",),
            ),
        },
    ),
    Position(
        "`FROM (LIST MODEL)`, `FROM (DESCRIBE MODEL m)`, and wherever a query has its parentheses",
        "`SELECT name FROM (LIST MODEL)`",
        (YES, YES, YES),
        {
            "models": Case("SELECT name, class_name FROM (LIST MODEL) WHERE length(name) < $1 ORDER BY name"),
            "models, every column": Case("SELECT * FROM (LIST MODEL) m WHERE length(name) < $1 ORDER BY name"),
            "models in a cte, beside a predict": Case(
                f"WITH m AS (LIST MODEL) SELECT m.name, t.id, t.predicted FROM m, ({PREDICT}) t WHERE t.id < $1 ORDER BY t.id, m.name"
            ),
            "models in order": Case("(LIST MODEL) ORDER BY last_updated_utc DESC LIMIT $1"),
            "models in a subquery": Case(
                "SELECT id FROM photos WHERE 'colours' IN (SELECT name FROM (LIST MODEL)) AND id < $1 ORDER BY id"
            ),
            "models in a set operation": Case(f"(LIST MODEL) EXCEPT {MODELS} WHERE length(name) > $1"),
            "a model": Case("SELECT value FROM (DESCRIBE MODEL colours) WHERE property = 'classes' AND length(value) > $1"),
            "a model in a cte": Case("WITH d AS (DESCRIBE MODEL colours) SELECT * FROM d WHERE length(property) < $1 ORDER BY property"),
            "models in a new table": making("CREATE TABLE made AS SELECT name FROM (LIST MODEL) WHERE length(name) < $1"),
        },
    ),
    Position(
        "`LATERAL`",
        "`FROM t, LATERAL (PREDICT …)`",
        (REFUSED, REFUSED, REFUSED),
        {
            "lateral": Case("SELECT * FROM photos k, LATERAL (PREDICT USING colours AS SELECT k.image) t WHERE k.id < $1"),
            "lateral join": Case(
                "SELECT * FROM photos k LEFT JOIN LATERAL (PREDICT USING colours AS TABLE photos WHERE id = k.id) t ON true WHERE k.id < $1"
            ),
        },
    ),
    Position(
        "`EXPLAIN [ANALYZE]`",
        "`EXPLAIN ANALYZE PREDICT …`",
        (YES, YES, YES),
        {
            "explain": explaining(f"EXPLAIN {PREDICT} WHERE id < $1", "'each row of its query'"),
            "explain a select": explaining(f"EXPLAIN SELECT predicted FROM ({PREDICT} WHERE id < $1) t", "'each row of its query'"),
            "explain analyze": explaining(f"EXPLAIN ANALYZE {PREDICT} WHERE id < $1", COUNTED),
            "explain analyze a select": explaining(
                f"EXPLAIN (ANALYZE, COSTS OFF) SELECT predicted, count(*) FROM ({PREDICT}) t WHERE id < $1 GROUP BY 1", COUNTED
            ),
        },
    ),
    Position(
        "in a string of several statements",
        "`BEGIN; DECLARE c CURSOR FOR PREDICT …`",
        (YES, "–", "–"),  # noqa: RUF001 - as in the table
        {
            "a string that declares a cursor": Case(
                f"BEGIN; DECLARE c CURSOR FOR {PREDICT} WHERE id < $1 ORDER BY id", after=SEEN_OF_CURSOR, undo=("COMMIT",)
            ),
            "a string of selects": Case(
                f"SELECT 'a' AS first; SELECT id, predicted FROM ({PREDICT}) t WHERE id < $1 ORDER BY id; SELECT 'b' AS last"
            ),
            "a string that makes a table": making(
                f"CREATE TABLE made AS {PREDICT}; DELETE FROM made USING ({PREDICT}) p WHERE p.id = made.id AND p.id >= $1"
            ),
        },
    ),
    Position(
        "`PREPARE` and `EXECUTE`, each by itself",
        "`PREPARE p(int) AS PREDICT …`",
        (YES, REFUSED, REFUSED),
        {
            "prepare": Case(
                f"PREPARE p AS {PREDICT}", after=("SELECT name FROM pg_prepared_statements WHERE name = 'p'",), undo=("DEALLOCATE p",)
            ),
            "execute": Case(
                "EXECUTE p(4 + 4, 'r' || 'ed')",
                before=(f"PREPARE p(int, text) AS SELECT id, predicted FROM ({PREDICT}) t WHERE id < $1 AND predicted = $2 ORDER BY id",),
                undo=("DEALLOCATE p",),
            ),
        },
    ),
    Position(
        "`CREATE [TEMP] VIEW`, and whatever reads one",
        "`CREATE VIEW v AS PREDICT …`",
        (YES, YES, YES),
        {
            "create view": viewing(f"CREATE VIEW made AS {PREDICT}"),
            "create temp view": viewing(f"CREATE TEMP VIEW made (id, a, b, predicted) AS ({PREDICT} WHERE id < 9)"),
            "create view of a select": viewing(f"CREATE OR REPLACE VIEW made AS SELECT id, predicted FROM ({PREDICT}) t WHERE id < 9"),
            "create view of a cte": viewing(f"CREATE VIEW made AS WITH p AS ({PREDICT}) SELECT predicted, id FROM p"),
            "view": of_view("SELECT * FROM made WHERE id < $1 ORDER BY id"),
            "view, joined": of_view("SELECT k.id, v.predicted FROM photos k JOIN made v USING (id) WHERE k.id < $1 ORDER BY 1"),
            "view, beside a predict": of_view(f"SELECT id, p.predicted FROM made v JOIN ({PREDICT}) p USING (id) WHERE id < $1 ORDER BY 1"),
            "view, in a subquery": of_view("SELECT id FROM photos WHERE id IN (SELECT id FROM made WHERE predicted = 'red') AND id < $1"),
            "view of a view": of_view("SELECT n, predicted FROM counted WHERE n > $1 ORDER BY 1, 2"),
            "view, into a table": of_view(
                "CREATE TABLE kept AS SELECT * FROM made WHERE id < $1", "TABLE kept ORDER BY id", "DROP TABLE kept"
            ),
            "view, by a cursor": of_view("DECLARE c CURSOR WITH HOLD FOR TABLE made", "FETCH 3 FROM c", "CLOSE c"),
        },
    ),
    Position(
        "`CREATE MATERIALIZED VIEW`, `REFRESH`, each by itself",
        "`CREATE MATERIALIZED VIEW v AS PREDICT …`",
        (YES, YES, "PostgreSQL takes no parameters"),
        {
            "materialized view": Case(
                f"CREATE MATERIALIZED VIEW made AS {PREDICT} WHERE id < $1",
                after=("TABLE made ORDER BY 1",),
                undo=("DROP MATERIALIZED VIEW made",),
            ),
            "materialized view of a select": Case(
                f"CREATE MATERIALIZED VIEW made AS SELECT predicted, count(*) FROM ({PREDICT}) t WHERE id < $1 GROUP BY 1",
                after=("TABLE made ORDER BY 1",),
                undo=("DROP MATERIALIZED VIEW made",),
            ),
            "refresh": refreshing("REFRESH MATERIALIZED VIEW made"),
            "refresh concurrently": refreshing("REFRESH MATERIALIZED VIEW CONCURRENTLY made"),
        },
    ),
    Position(
        "functions, rules, `CALL`, query of a BUILD or FIT MODEL",
        "`CREATE RULE … DO PREDICT …`",
        (REFUSED, REFUSED, REFUSED),
        {
            # A body in a string is PostgreSQL's alone, which finds a syntax error in it.
            "function": Case(f"CREATE FUNCTION made() RETURNS bigint RETURN (SELECT count(predicted) FROM ({PREDICT}) t WHERE id < $1)"),
            "rule": Case(f"CREATE RULE made AS ON INSERT TO kept DO ALSO {PREDICT} WHERE id < $1", before=("CREATE TABLE kept (a int)",)),
            "call": Case(
                f"CALL kept((SELECT max(predicted) FROM ({PREDICT}) t WHERE id < $1))",
                before=("CREATE PROCEDURE kept(text) LANGUAGE sql AS 'SELECT 1'",),
            ),
            "build model": Case(
                "BUILD MODEL made USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32, epochs=1) AS "
                f"SELECT image, predicted AS label FROM ({PREDICT}) t WHERE id < $1"
            ),
        },
    ),
)
