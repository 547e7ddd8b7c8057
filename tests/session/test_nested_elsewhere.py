"""PREDICT inside other SQL where no temporary table can be, or several statements share a string; EXPLAIN; PREPARE and EXECUTE."""

from __future__ import annotations

import json

import asyncpg
import psycopg
import pytest
from psycopg import errors

from tests.rawwire import RawClient, bind
from tests.session.test_simple import Connection, rows, send, status
from thanoproxy.session import columns
from thanoproxy.wire import messages

ALL = "PREDICT USING colours AS SELECT id, image FROM pictures"
MISSING = "PREDICT USING colours AS SELECT id, image FROM pictures UNION ALL SELECT 99, 'no such file.png'"


def predictions(connection: Connection) -> dict[int, str]:
    """What the model says of each picture."""
    return {int(row[0]): str(row[2]) for row in connection.execute(ALL).fetchall()}  # type: ignore[call-overload]


class TestStrings:
    """The string stays one Query."""

    def test_between_other_statements(self, connection: Connection) -> None:
        first, counted, last = send(connection, f"SELECT 'a'; SELECT count(*) FROM ({ALL}) WHERE predicted IS NOT NULL; SELECT 'b'")
        assert [rows(first), rows(counted), rows(last)] == [[(b"a",)], [(b"24",)], [(b"b",)]]

    def test_it_is_one_transaction(self, connection: Connection) -> None:
        with pytest.raises(errors.DivisionByZero):
            send(connection, f"CREATE TABLE kept AS {ALL}; SELECT 1/0")
        assert connection.execute("SELECT to_regclass('kept')").fetchone() == (None,)

    def test_a_cursor_as_drivers_declare_it(self, connection: Connection) -> None:
        text = f'BEGIN;declare "SQL_CUR1" cursor with hold for SELECT * FROM ({ALL}) q WHERE id < 3;fetch 2 in "SQL_CUR1"'
        assert len(rows(send(connection, text)[-1])) == 2
        connection.execute("COMMIT")
        assert len(connection.execute('FETCH ALL IN "SQL_CUR1"').fetchall()) == 1
        connection.execute('CLOSE "SQL_CUR1"')

    def test_what_it_made_is_gone_before_the_next_statement(self, connection: Connection) -> None:
        text = f"BEGIN; SELECT * FROM ({ALL}) t LIMIT 1; SELECT count(*) FROM pg_class WHERE relname LIKE 'thanoproxy%'; COMMIT"
        assert rows(send(connection, text)[2]) == [(b"0",)]

    @pytest.mark.parametrize(
        ("text", "error", "at"),
        [
            ("SELECT 1; SELECT * FROM (PREDICT USING colours AS SELECT * FROM pictures WHERE nope) t", errors.UndefinedColumn, "nope"),
            ("SELECT 1; SELECT nope FROM (PREDICT USING colours AS SELECT * FROM pictures) t", errors.UndefinedColumn, "nope"),
            ("SELECT 1; SELECT * FROM (PREDICT USING nobody AS SELECT * FROM pictures) t", errors.UndefinedObject, "nobody"),
            ("SELECT 1; SELECT * FROM (PREDICT USING colours AS SELECT 'none.png' AS image) t", errors.UndefinedFile, None),
        ],
    )
    def test_errors_fail_the_whole_string(self, connection: Connection, text: str, error: type[psycopg.Error], at: str | None) -> None:
        with pytest.raises(error) as caught:
            send(connection, text + "; SELECT 2")
        assert caught.value.diag.statement_position == (None if at is None else str(text.index(at) + 1))
        assert status(connection) == psycopg.pq.TransactionStatus.IDLE
        assert connection.execute("SELECT 'alive'").fetchone() == ("alive",)


class TestReadOnly:
    """Temporary tables are refused there, so the rows travel as parameters."""

    @pytest.fixture
    def connection(self, connection: Connection) -> Connection:
        connection.execute("SET default_transaction_read_only = on")
        return connection

    def test_the_same_rows(self, connection: Connection) -> None:
        found = connection.execute(f"SELECT predicted, count(*) FROM ({ALL}) t GROUP BY 1 ORDER BY 1").fetchall()
        said = list(predictions(connection).values())
        assert found == [(label, said.count(label)) for label in sorted(set(said))]

    def test_ordered_behind_its_parentheses(self, connection: Connection) -> None:
        found = connection.execute(f"({ALL}) ORDER BY predicted DESC, id LIMIT 5").fetchall()
        assert [row[0] for row in found] == sorted((said := predictions(connection)), key=lambda i: (said[i] != "red", i))[:5]

    def test_types_come_back_as_they_were(self, connection: Connection) -> None:
        query = (
            "PREDICT USING colours AS SELECT image, ARRAY[id, NULL] AS numbers, 1.50::numeric(5,2) AS number, '\\x00ff'::bytea AS bytes, "
            "'2020-01-02 03:04:05.678+00'::timestamptz AS moment, 'a\"b\\c,{}'::varchar(9) AS words, NULL::int AS nothing "
            "FROM pictures WHERE id = 1"
        )
        alone = connection.execute(query).fetchone()
        assert connection.execute(f"SELECT * FROM ({query}) t").fetchone() == alone

    def test_with_parameters_and_several_holes(self, connection: Connection) -> None:
        query = (
            f"SELECT a.id, b.predicted, %s::text FROM ({ALL} WHERE id < %s) a JOIN ({ALL}) b USING (id) WHERE a.predicted = %s ORDER BY 1"
        )
        expected = [(i, label, "ü") for i, label in predictions(connection).items() if i < 6 and label == "red"]
        assert connection.execute(query, ("ü", 6, "red")).fetchall() == expected

    def test_no_rows(self, connection: Connection) -> None:
        assert connection.execute(f"SELECT * FROM ({ALL} WHERE false) t").fetchall() == []

    def test_copy_is_refused(self, connection: Connection) -> None:
        with pytest.raises(errors.FeatureNotSupported), connection.cursor().copy(f"COPY ({ALL}) TO STDOUT") as copy:
            list(copy)
        assert connection.execute("SELECT 1").fetchone() == (1,)

    def test_memory_is_bounded(self, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(columns, "LIMIT", 100)
        with pytest.raises(errors.ProgramLimitExceeded):
            connection.execute(f"SELECT * FROM ({ALL}) t WHERE predicted = 'red'")
        assert connection.execute("SELECT 1").fetchone() == (1,)


class TestSnapshot:
    """Outside of a block a SELECT sees one snapshot, though it runs as several statements."""

    def test_a_select_is_repeatable(self, connection: Connection) -> None:
        query = f"SELECT current_setting('transaction_isolation') FROM ({ALL}) t WHERE predicted IS NOT NULL LIMIT 1"
        assert connection.execute(query).fetchone() == ("repeatable read",)
        assert connection.execute("SELECT current_setting('transaction_isolation')").fetchone() == ("read committed",)

    def test_without_a_warning(self, connection: Connection) -> None:
        heard: list[str] = []
        connection.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
        connection.execute(f"SELECT * FROM ({ALL}) t WHERE predicted = 'red'")
        assert heard == []

    def test_what_is_stricter_stays(self, connection: Connection) -> None:
        connection.execute("SET default_transaction_isolation = 'serializable'")
        query = f"SELECT current_setting('transaction_isolation') FROM ({ALL}) t WHERE predicted IS NOT NULL LIMIT 1"
        assert connection.execute(query).fetchone() == ("serializable",)


class TestExplain:
    def lines(self, connection: Connection, text: str) -> list[str]:
        return [str(row[0]) for row in connection.execute(text).fetchall()]

    def test_plans_and_predicts_nothing(self, connection: Connection) -> None:
        *plan, ours = self.lines(connection, f"EXPLAIN {MISSING}")
        assert any("Seq Scan on pictures" in line for line in plan)
        assert ours == "Predict using colours@1 (MobileNet_V2): each row of its query"

    def test_analyze_says_what_was_done(self, connection: Connection) -> None:
        lines = self.lines(connection, f"EXPLAIN (ANALYZE, COSTS OFF) SELECT count(*) FROM ({ALL}) t WHERE predicted = 'red'")
        at = next(i for i, line in enumerate(lines) if line.startswith("Predict using colours@1"))
        assert "rows=24 batches=" in lines[at]
        assert " on cpu, " in lines[at]
        assert any("Seq Scan on pictures" in line for line in lines[at:]), "the plan of its query"

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            (f"SELECT count(*) FROM ({ALL}) t", "never executed, nothing reads the predictions"),
            (f"SELECT * FROM ({ALL}) t LIMIT 10", "each row of its query LIMIT 10"),
            (f"SELECT * FROM ({ALL}) t WHERE id = 3 AND predicted = 'red'", "each row of its query WHERE (id = 3)"),
        ],
    )
    def test_shows_what_is_left_out(self, connection: Connection, text: str, shown: str) -> None:
        assert self.lines(connection, f"EXPLAIN {text}")[-1].endswith(shown)

    def test_other_formats_are_left_whole(self, connection: Connection) -> None:
        ((plan,),) = connection.execute(f"EXPLAIN (FORMAT JSON) {ALL}").fetchall()
        assert isinstance(plan if isinstance(plan, list) else json.loads(str(plan)), list)

    async def test_in_the_extended_protocol(self, url: str) -> None:
        client = await asyncpg.connect(url)
        found = await client.fetch(f"EXPLAIN ANALYZE SELECT * FROM ({ALL} WHERE id < $1) t WHERE predicted = $2", 5, "red")
        assert any("rows=5 batches=1" in row[0] for row in found)
        found = await client.fetch(f"EXPLAIN ANALYZE SELECT * FROM ({ALL}) t LIMIT $1 OFFSET $2", 3, 1)
        assert any("rows=4 batches=1" in row[0] for row in found)
        await client.close()

    def test_bad_options_are_postgresqls_to_refuse(self, connection: Connection) -> None:
        with pytest.raises(errors.SyntaxError, match="nope"):
            connection.execute(f"EXPLAIN (NOPE) {ALL}")


class TestByName:
    """PREPARE and EXECUTE as SQL."""

    def test_execute_runs_it_with_its_arguments(self, connection: Connection) -> None:
        connection.execute(f"PREPARE p(int) AS {ALL} WHERE id < $1")
        connection.execute(
            "PREPARE q AS SELECT id FROM (PREDICT USING colours AS SELECT * FROM pictures) t WHERE predicted = $1 AND id < $2"
        )
        assert len(connection.execute("EXECUTE p(1 + 2)").fetchall()) == 3
        expected = [(i,) for i, label in predictions(connection).items() if label == "red" and i < 9]
        assert connection.execute("EXECUTE q('r' || 'ed', 9)").fetchall() == expected

    def test_the_protocol_knows_the_name_too(self, url: str) -> None:
        text = b"PREPARE both_ways AS SELECT predicted FROM (PREDICT USING colours AS SELECT * FROM pictures) t WHERE id = $1::int"
        with RawClient(url) as raw:
            raw.talk(messages.query(text))
            answer = raw.talk(bind((b"1",), name="both_ways"), messages.execute(b""), messages.SYNC)
        assert answer[0] == "2"
        assert any(label in answer[1] for label in ("red", "blue"))

    def test_deallocate_forgets_it(self, connection: Connection) -> None:
        connection.execute(f"PREPARE gone AS {ALL}")
        connection.execute("DEALLOCATE gone")
        with pytest.raises(errors.InvalidSqlStatementName):
            connection.execute("EXECUTE gone")

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ("EXECUTE p", errors.SyntaxError),
            ("EXECUTE p(1, 2)", errors.SyntaxError),
            ("EXECUTE p('x')", errors.InvalidTextRepresentation),
            (f"PREPARE p AS {ALL}", errors.DuplicatePreparedStatement),
            ("PREPARE r AS PREDICT USING nobody AS SELECT 1 AS image", errors.UndefinedObject),
        ],
    )
    def test_errors(self, connection: Connection, text: str, error: type[psycopg.Error]) -> None:
        connection.execute(f"PREPARE p(int) AS {ALL} WHERE id < $1")
        with pytest.raises(error):
            connection.execute(text)
        assert connection.execute("EXECUTE p(1)").fetchall()

    @pytest.mark.parametrize("prepare", [f"PREPARE r AS SELECT nope FROM ({ALL}) t", f"PREPARE r AS {ALL} WHERE nope"])
    def test_positions_are_in_the_clients_text(self, connection: Connection, prepare: str) -> None:
        with pytest.raises(errors.UndefinedColumn) as caught:
            connection.execute(prepare)
        assert caught.value.diag.statement_position == str(prepare.index("nope") + 1)

    def test_positions_of_arguments_are_in_the_execute(self, connection: Connection) -> None:
        connection.execute(f"PREPARE p(text, int) AS {ALL} WHERE label = $1 AND id < $2")
        with pytest.raises(errors.InvalidTextRepresentation) as caught:
            connection.execute("EXECUTE p('red',\n  'many')")
        assert caught.value.diag.statement_position == "20"

    @pytest.mark.parametrize(
        "body",
        [
            "SELECT predicted FROM (PREDICT USING colours AS SELECT * FROM pictures) t",
            "PREDICT USING colours AS SELECT * FROM pictures",
            "EVALUATE USING colours AS SELECT * FROM pictures",
        ],
    )
    def test_by_a_way_that_passes_us_by_it_fails(self, connection: Connection, body: str) -> None:
        """And never gives NULL for a prediction, or the query's own columns alone."""
        connection.execute(f"PREPARE unseen AS {body}")
        assert connection.execute("EXECUTE unseen").fetchall()
        for way in ("SELECT 1; EXECUTE unseen", "CREATE TABLE t AS EXECUTE unseen"):
            with pytest.raises(errors.FeatureNotSupported, match="only thanoproxy can run"):
                send(connection, way)
        with pytest.raises(errors.FeatureNotSupported, match="only thanoproxy can run"):
            connection.execute("EXECUTE unseen", prepare=True)

    def test_ordinary_ones_are_untouched(self, connection: Connection) -> None:
        connection.execute(f"PREPARE p AS {ALL}")
        connection.execute("PREPARE ordinary AS SELECT $1::int + 1")
        assert connection.execute("EXECUTE ordinary(4)").fetchone() == (5,)
