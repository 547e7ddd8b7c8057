"""FIT MODEL through the proxy: what it answers, whose model it makes, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors

from tests.databases import Database
from tests.rawwire import RawClient
from tests.serving import Proxy
from thanoproxy.wire.messages import query

Connection = psycopg.Connection[tuple[object, ...]]

QUICK = "epochs=1, augment=false"
FIT = f"FIT MODEL better USING colours OPTIONS ({QUICK}) AS SELECT image, label FROM pictures"


@pytest.fixture
def block(connection: Connection) -> Iterator[Connection]:
    """The connection in a transaction block that is rolled back in the end."""
    connection.execute("BEGIN")
    yield connection
    connection.execute("ROLLBACK")


def described(connection: Connection, model: str) -> dict[object, object]:
    return dict(connection.execute(f"DESCRIBE MODEL {model}").fetchall())  # type: ignore[arg-type]


def test_the_answer_and_the_tag(url: str) -> None:
    with RawClient(url) as raw:
        raw.talk(query(b"BEGIN"))
        replies = [reply for reply in raw.talk(query(FIT.encode())) if reply[0] != "N"]
        assert replies[0].startswith("T[name:25")
        assert replies[1].startswith("D[better,1,{blue,red},24,")
        assert replies[2:] == ["C[FIT MODEL]", "Z[T]"]
        raw.talk(query(b"ROLLBACK"))


@pytest.mark.parametrize("prepared", [False, True])
def test_a_new_model_that_says_where_it_comes_from(block: Connection, prepared: bool) -> None:
    notices: list[str] = []
    block.add_notice_handler(lambda diag: notices.append(diag.message_primary or ""))
    row = block.execute(FIT, prepare=prepared).fetchone()
    assert row is not None
    assert row[:4] == ("better", 1, ["blue", "red"], 24)
    assert any(text.startswith("epoch 1") for text in notices)
    facts = described(block, "better")
    assert (facts["option using"], facts["option input_size"]) == ("colours@1", "32")
    assert "option pretrained" not in facts
    assert len(block.execute("PREDICT USING better AS TABLE pictures").fetchall()) == 24


def test_the_job_is_shown_as_a_fit(connection: Connection) -> None:
    connection.execute(FIT.replace("better", "shown"))
    found = connection.execute("SELECT kind, state, version FROM thanosql.jobs WHERE model = 'shown'").fetchall()
    assert found == [("FIT", "done", 1)]
    connection.execute("DROP MODEL shown")


def test_new_labels_join_the_known_ones(block: Connection) -> None:
    row = block.execute(FIT.replace("label FROM", "replace(label, 'red', 'crimson') AS label FROM")).fetchone()
    assert row is not None
    assert row[2] == ["blue", "crimson", "red"]


def test_a_model_fitted_anew_is_its_next_version(block: Connection) -> None:
    again = f"FIT MODEL colours USING colours OPTIONS (overwrite=true, {QUICK}) AS TABLE pictures"
    for version in (2, 3):
        row = block.execute(again).fetchone()  # type: ignore[arg-type]
        assert row is not None
        assert row[:2] == ("colours", version)
        assert described(block, "colours")["option using"] == f"colours@{version - 1}"
    row = block.execute(again.replace("USING colours", "USING colours@1")).fetchone()  # type: ignore[arg-type]
    assert row is not None
    assert described(block, "colours")["option using"] == "colours@1"


def test_it_obeys_the_transaction_and_stands_in_a_string(connection: Connection) -> None:
    connection.execute(f"BEGIN; {FIT}; ROLLBACK")  # type: ignore[arg-type]
    with pytest.raises(errors.UndefinedObject):
        connection.execute("DESCRIBE MODEL better")
    with connection.cursor() as cursor:
        cursor.execute(f"{FIT}; PREDICT USING better AS TABLE pictures; DROP MODEL better")  # type: ignore[arg-type]
        assert cursor.fetchone()[:2] == ("better", 1)  # type: ignore[index]
        assert cursor.nextset()
        assert cursor.rowcount == 24
    with pytest.raises(errors.UndefinedObject):
        connection.execute(f"SELECT 1; {FIT.replace('USING colours', 'USING nobody')}")  # type: ignore[arg-type]


def test_usage_is_what_it_takes_and_the_result_is_the_fitters(proxy: Proxy, connection: Connection, module_database: Database) -> None:
    connection.execute("CREATE ROLE fitter LOGIN PASSWORD 'secret'; GRANT SELECT ON pictures TO fitter")
    try:
        with psycopg.connect(proxy.url(module_database, "fitter", "secret"), autocommit=True) as theirs:
            with pytest.raises(errors.UndefinedObject):
                theirs.execute(FIT)
            connection.execute("GRANT USAGE ON MODEL colours TO fitter")
            theirs.execute(FIT)
            assert described(theirs, "better")["owner"] == "fitter"
            with pytest.raises(errors.InsufficientPrivilege):
                theirs.execute(f"FIT MODEL colours USING colours OPTIONS (overwrite=true, {QUICK}) AS TABLE pictures")  # type: ignore[arg-type]
            theirs.execute("DROP MODEL better")
    finally:
        connection.execute("REVOKE USAGE ON MODEL colours FROM fitter")
        connection.execute("DROP OWNED BY fitter; DROP ROLE fitter")


def test_options_of_a_training_are_kept_and_told(block: Connection) -> None:
    notices: list[str] = []
    block.add_notice_handler(lambda diag: notices.append(diag.message_primary or ""))
    block.execute(
        "BUILD MODEL brief USING MobileNet_V2 OPTIONS (pretrained=false, input_size=32, epochs=10000, early_stopping=TRUE, "
        "class_weights=[1, 2.5], max_seconds=1) AS TABLE pictures"
    )
    assert any(text.startswith(("max_seconds: training was stopped", "early_stopping: epoch")) for text in notices)
    facts = described(block, "brief")
    assert (facts["option early_stopping"], facts["option class_weights"]) == ("3", "[1.0, 2.5]")
    assert float(str(facts["option max_seconds"])) == 1.0
