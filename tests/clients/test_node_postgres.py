"""node-postgres (`pg`) with pg-cursor; the program is `node_postgres.js`, and here is what it must see."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.conftest import run_node
from tests.clients.pictures import COLUMNS, RESULT, Predicted, shows_an_epoch

Seen = dict[str, Any]


@pytest.fixture(scope="module")
def seen(url: str) -> Seen:
    return run_node("node_postgres.js", url, packages=["pg", "pg-cursor"])


def listed(predicted: Predicted) -> list[list[object]]:
    return [list(row) for row in predicted]


class TestOrdinarySQL:
    def test_types(self, seen: Seen) -> None:
        assert seen["types"] == [7, "Grüße 😀", "1.50", True, None, [1, None, 3]]

    def test_several_statements(self, seen: Seen) -> None:
        assert seen["several"] == [{"a": 1}, {"b": 2}]

    def test_an_error_and_a_rollback(self, seen: Seen) -> None:
        assert (seen["error"], seen["afterTheError"], seen["afterTheRollback"]) == ("22012", "25P02", "42P01")

    def test_notify(self, seen: Seen) -> None:
        assert seen["heard"] == ["node_news", "hello"]

    def test_a_portal_read_in_parts(self, seen: Seen) -> None:
        assert seen["cursor"] == [50, 50, 20]


class TestModels:
    def test_build_tells_its_progress(self, seen: Seen) -> None:
        assert seen["buildColumns"] == RESULT
        assert [seen["built"][name] for name in RESULT[:4]] == ["by_node", 1, ["blue", "red"], "24"]  # pg gives int8 as text
        assert shows_an_epoch(seen["notices"])

    def test_drop(self, seen: Seen) -> None:
        assert (seen["dropped"], seen["droppedTwice"]) == ("DROP", "42704")  # pg takes the first word of the tag

    def test_predict(self, seen: Seen, predicted: Predicted) -> None:
        assert (seen["columns"], seen["columnTypes"]) == (COLUMNS, [23, 25, 25, 25])
        assert (seen["rows"], seen["rowCount"]) == (listed(predicted), 24)

    def test_a_named_statement_and_binary_results(self, seen: Seen, predicted: Predicted) -> None:
        red = [row for row in predicted if row[2] == "red"]
        assert seen["named"] == [listed([row for row in red if row[0] < end]) for end in (4, 12, 24)]
        assert seen["binary"] == listed([row for row in red if row[0] < 9])

    def test_between_other_statements(self, seen: Seen) -> None:
        assert seen["mixed"] == [1, 2, 1]

    def test_a_portal_read_in_parts(self, seen: Seen, predicted: Predicted) -> None:
        """Outside a transaction, kept open by Flush between the parts."""
        assert seen["portal"] == [listed(predicted[i : i + 7]) for i in range(0, 24, 7)]
        assert seen["closedEarly"] == 2

    def test_queries_that_wait_their_turn(self, seen: Seen) -> None:
        assert seen["queued"] == [1, 2, 3]

    def test_a_failure_and_going_on(self, seen: Seen) -> None:
        assert seen["unknownModel"] == ["42704", "15", "LIST MODEL shows the models you may use."]
        assert (seen["missingImage"], seen["usable"]) == ("58P01", "usable")

    def test_a_failure_fails_the_transaction(self, seen: Seen) -> None:
        assert (seen["inABlock"], seen["blockFailed"]) == ("42704", "25P02")

    def test_statement_timeout(self, seen: Seen) -> None:
        assert seen["timeout"] == "57014"

    def test_a_pool(self, seen: Seen) -> None:
        assert seen["pool"] == [24] * 9
