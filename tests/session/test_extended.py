"""Statements of ours in the extended protocol, message by message, beside what PostgreSQL itself answers to the same sequence."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.rawwire import RawClient, bind, parse
from thanoproxy.wire.messages import FLUSH, SYNC, close, describe, execute, query

PREDICT = "PREDICT USING colours AS SELECT id, image FROM pictures WHERE id < $1::int ORDER BY id"
ROWS = ["D[0,blue/0.png,", "D[1,red/0.png,", "D[2,blue/1.png,"]


@pytest.fixture
def raw(url: str) -> Iterator[RawClient]:
    with RawClient(url) as client:
        yield client


def heads(replies: list[str]) -> list[str]:
    """The replies without the predicted label, which a model trained for a second may get wrong."""
    return [re.sub(r",(red|blue)\]$", ",", reply) for reply in replies]


def test_parse_bind_describe_execute(raw: RawClient) -> None:
    replies = raw.talk(parse(PREDICT), describe(b"S", b""), bind((b"2",)), describe(b"P", b""), execute(b""), SYNC)
    row = "T[id:23/0,image:25/0,predicted:25/0]"
    assert heads(replies) == ["1", "t[23]", row, "2", row, *ROWS[:2], "C[SELECT 2]", "Z[I]"]


def test_describe_with_flush_only_as_asyncpg_prepares(raw: RawClient) -> None:
    assert raw.quiet(parse(PREDICT, "s"), describe(b"S", b"s"), FLUSH)[1:] == ["t[23]", "T[id:23/0,image:25/0,predicted:25/0]"]
    assert heads(raw.talk(bind((b"1",), name="s"), execute(b""), SYNC)) == ["2", ROWS[0], "C[SELECT 1]", "Z[I]"]


@pytest.mark.parametrize("formats", [(), (0,), (1,), (1, 0, 1), (0, 1, 0)])
def test_result_formats_count_the_added_column(raw: RawClient, formats: tuple[int, ...]) -> None:
    replies = raw.talk(parse(PREDICT), bind((b"1",), formats=formats), describe(b"P", b""), execute(b""), SYNC)
    shown = [formats[0] if len(formats) == 1 else formats[i] if formats else 0 for i in range(3)]
    assert replies[2] == f"T[id:23/{shown[0]},image:25/{shown[1]},predicted:25/{shown[2]}]"
    assert replies[-2:] == ["C[SELECT 1]", "Z[I]"]


def test_a_wrong_number_of_formats_is_the_servers_to_refuse(raw: RawClient) -> None:
    replies = raw.talk(parse(PREDICT), bind((b"1",), formats=(0, 0, 0, 0)), execute(b""), SYNC)
    assert replies[1].startswith("E[08P01 bind message has 4 result formats")


def test_row_limits_and_suspension(raw: RawClient) -> None:
    raw.talk(query(b"BEGIN"))
    first = raw.talk(parse(PREDICT), bind((b"3",), portal="p"), execute(b"p", 2), SYNC)
    assert heads(first) == ["1", "2", *ROWS[:2], "s", "Z[T]"]
    assert heads(raw.talk(execute(b"p", 2), SYNC)) == [ROWS[2], "C[SELECT 1]", "Z[T]"]
    assert raw.talk(execute(b"p", 2), SYNC) == ["C[SELECT 0]", "Z[T]"]
    raw.talk(query(b"COMMIT"))
    assert raw.talk(execute(b"p"), SYNC)[0].startswith("E[34000")


def test_a_limit_equal_to_the_rows_suspends(raw: RawClient) -> None:
    replies = raw.talk(parse(PREDICT), bind((b"2",)), execute(b"", 2), execute(b"", 2), SYNC)
    assert heads(replies) == ["1", "2", *ROWS[:2], "s", "C[SELECT 0]", "Z[I]"]


def test_replies_keep_their_order_in_a_mixed_pipeline(raw: RawClient) -> None:
    plain = (parse("SELECT 'a'"), bind(), execute(b""))
    replies = raw.talk(*plain, parse(PREDICT), bind((b"1",)), execute(b""), *plain, SYNC, *plain, SYNC, ready=2)
    one = ["1", "2", "D[a]", "C[SELECT 1]"]
    assert heads(replies) == [*one, "1", "2", ROWS[0], "C[SELECT 1]", *one, "Z[I]", *one, "Z[I]"]


def test_our_failure_skips_to_sync_and_rolls_back(raw: RawClient) -> None:
    create = (parse("CREATE TABLE never (a int)"), bind(), execute(b""))
    replies = raw.talk(*create, parse("PREDICT USING nobody AS SELECT '' AS image"), bind(), execute(b""), *create, SYNC)
    assert replies == ["1", "2", "C[CREATE TABLE]", 'E[42704 model "nobody" does not exist @15]', "Z[I]"]
    assert raw.talk(query(b"SELECT to_regclass('never')"))[1] == "D[NULL]"


def test_an_earlier_error_skips_ours(raw: RawClient) -> None:
    replies = raw.talk(parse("SELECT 1/0"), bind(), execute(b""), parse(PREDICT), bind((b"1",)), execute(b""), SYNC)
    assert replies == ["1", "E[22012 division by zero]", "Z[I]"]  # the planner already divides
    assert raw.talk(query(b"SELECT 1"))[-1] == "Z[I]"


def test_an_error_in_the_inner_query_points_into_the_clients_text(raw: RawClient) -> None:
    text = "PREDICT /* 😀 */ USING colours AS SELECT nothing FROM pictures"
    assert raw.talk(parse(text), SYNC)[0] == f'E[42703 column "nothing" does not exist @{text.index("nothing") + 1}]'
    assert raw.talk(query(text.encode()))[0] == f'E[42703 column "nothing" does not exist @{text.index("nothing") + 1}]'


def test_an_error_while_rows_come(raw: RawClient) -> None:
    text = b"PREDICT USING colours AS SELECT image, 1/(id-2) AS q FROM pictures ORDER BY id"
    replies = raw.talk(query(text))
    assert replies[-2:] == ["E[22012 division by zero]", "Z[I]"]


def test_in_a_failed_block_nothing_runs(raw: RawClient) -> None:
    raw.talk(parse(PREDICT, "s"), SYNC)
    raw.talk(query(b"BEGIN; SELECT 1/0"))
    aborted = "E[25P02 current transaction is aborted, commands ignored until end of transaction block]"
    assert raw.talk(parse(PREDICT), SYNC) == [aborted, "Z[E]"]
    assert raw.talk(bind((b"1",), name="s"), execute(b""), SYNC) == [aborted, "Z[E]"]
    assert raw.talk(query(b"ROLLBACK")) == ["C[ROLLBACK]", "Z[I]"]


class TestNames:
    """Prepared statements of ours live under the client's own names, so the server judges them."""

    def test_duplicate(self, raw: RawClient) -> None:
        raw.talk(parse(PREDICT, "s"), SYNC)
        assert raw.talk(parse("SELECT 1", "s"), SYNC)[0].startswith("E[42P05")
        assert raw.talk(bind((b"1",), name="s"), execute(b""), SYNC)[-2] == "C[SELECT 1]"

    @pytest.mark.parametrize("drop", ["DEALLOCATE s", "DEALLOCATE ALL", "DISCARD ALL", "DO $$BEGIN EXECUTE 'DEALLOCATE s'; END$$"])
    def test_deallocated_in_sql(self, raw: RawClient, drop: str) -> None:
        raw.talk(parse(PREDICT, "s"), SYNC)
        assert raw.talk(query(drop.encode()))[-1] == "Z[I]"
        assert raw.talk(bind((b"1",), name="s"), SYNC)[0].startswith("E[26000")
        raw.talk(query(b"PREPARE s (int) AS SELECT $1 + 1 AS plain"))
        assert raw.talk(bind((b"1",), name="s"), describe(b"P", b""), execute(b""), SYNC) == [
            "2",
            "T[plain:23/0]",
            "D[2]",
            "C[SELECT 1]",
            "Z[I]",
        ]

    def test_close_and_many_executions(self, raw: RawClient) -> None:
        raw.talk(parse(PREDICT, "s"), SYNC)
        for rows in (b"1", b"2", b"3"):
            assert raw.talk(bind((rows,), name="s"), execute(b""), SYNC)[-2] == f"C[SELECT {rows.decode()}]"
            assert raw.talk(query(b"SELECT 1"))[-2] == "C[SELECT 1]"
        assert raw.talk(close(b"S", b"s"), SYNC) == ["3", "Z[I]"]
        assert raw.talk(bind((b"1",), name="s"), SYNC)[0].startswith("E[26000")

    def test_a_query_destroys_the_unnamed_one(self, raw: RawClient) -> None:
        raw.talk(parse(PREDICT), SYNC)
        raw.talk(query(b"SELECT 1"))
        assert raw.talk(bind((b"1",)), SYNC)[0].startswith("E[26000")
        raw.talk(parse("SELECT 1"), SYNC)
        raw.talk(query(b"PREDICT USING colours AS SELECT image FROM pictures LIMIT 1"))
        assert raw.talk(bind(), SYNC)[0].startswith("E[26000")

    def test_the_unnamed_one_can_be_parsed_again(self, raw: RawClient) -> None:
        raw.talk(parse(PREDICT), SYNC)
        raw.talk(parse("SELECT 7 AS seven"), SYNC)
        assert raw.talk(bind(), describe(b"P", b""), execute(b""), SYNC)[1] == "T[seven:23/0]"


def test_a_statement_of_the_protocols_is_not_run_by_sql_without_us(raw: RawClient) -> None:
    """EXECUTE by itself is as good as Bind; where it cannot be, it fails, and leaves no column out."""
    assert raw.talk(parse("PREDICT USING colours AS SELECT id, image FROM pictures WHERE id = 3", "named"), SYNC) == ["1", "Z[I]"]
    assert raw.talk(query(b"EXECUTE named"))[0] == "T[id:23/0,image:25/0,predicted:25/0]"
    refused = "E[0A000 EXECUTE of a prepared PREDICT, CONVERT or EVALUATE must be sent by itself, as a simple query @{}]"
    assert raw.talk(query(b"SELECT 1; EXECUTE named")) == [refused.format(19), "Z[I]"]
    assert raw.talk(query(b"CREATE TEMP TABLE t AS EXECUTE named")) == [refused.format(32), "Z[I]"]
    assert raw.talk(parse("EXECUTE named"), SYNC) == [refused.format(9), "Z[I]"]
    assert raw.talk(query(b"DEALLOCATE named"), query(b"PREPARE named AS SELECT 1"), query(b"SELECT 2; EXECUTE named"), ready=3)[-2:] == [
        "C[SELECT 1]",
        "Z[I]",
    ]


def test_a_portal_of_the_protocols_is_not_fetched_from_by_sql(raw: RawClient) -> None:
    raw.talk(query(b"BEGIN"))
    bound = (parse("PREDICT USING colours AS SELECT id, image FROM pictures ORDER BY id"), bind(portal="c"), execute(b"c", 1), SYNC)
    assert raw.talk(*bound)[-2:] == ["s", "Z[T]"]
    assert raw.talk(query(b"FETCH 1 FROM c")) == ["E[0A000 FETCH from a portal that holds a PREDICT is not supported @14]", "Z[E]"]
    raw.talk(query(b"ROLLBACK"))


def test_two_statements_in_one_parse(raw: RawClient) -> None:
    assert raw.talk(parse("PREDICT USING colours AS SELECT 1; SELECT 2"), SYNC)[0].startswith("E[42601 cannot insert multiple")


def test_an_inner_query_without_rows(raw: RawClient) -> None:
    text = b"PREDICT USING colours AS WITH w AS (SELECT 1) INSERT INTO pictures (id) VALUES (99)"
    assert raw.talk(query(text))[0] == "E[42601 the query after AS returns no rows @26]"
    assert raw.talk(query(b"SELECT count(*) FROM pictures WHERE id = 99"))[1] == "D[0]"


def test_build_in_the_extended_protocol(raw: RawClient) -> None:
    text = (
        "BUILD MODEL extended USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32, epochs=1) "
        "AS SELECT * FROM pictures WHERE id < $1::int"
    )
    replies = raw.talk(parse(text), describe(b"S", b""), bind((b"20",), formats=(1,)), execute(b""), SYNC)
    result = "name:25/0,version:23/0,classes:1009/0,images:20/0,validation_accuracy:701/0,seconds:701/0"
    assert replies[:4] == ["1", "t[23]", f"T[{result}]", "2"]
    notices = [reply for reply in replies if reply.startswith("N[00000 epoch 1")]
    assert len(notices) == 1
    assert replies[-2:] == ["C[SELECT 1]", "Z[I]"]
    assert raw.talk(parse("DROP MODEL extended"), describe(b"S", b""), bind(), execute(b""), SYNC) == [
        "1",
        "t[]",
        "n",
        "2",
        "C[DROP MODEL]",
        "Z[I]",
    ]
