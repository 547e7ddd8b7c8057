"""postgres.js (`postgres`), which pipelines; the program is `postgres_js.js`, and here is what it must see."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.conftest import run_node
from tests.clients.pictures import COLUMNS, RESULT, Predicted, shows_an_epoch

Seen = dict[str, Any]


@pytest.fixture(scope="module")
def seen(url: str) -> Seen:
    return run_node("postgres_js.js", url, packages=["postgres"])


def listed(predicted: Predicted) -> list[list[object]]:
    return [list(row) for row in predicted]


class TestOrdinarySQL:
    def test_types(self, seen: Seen) -> None:
        assert seen["types"] == [7, "Grüße 😀", "1.50", True, None, [1, 3]]

    def test_several_statements(self, seen: Seen) -> None:
        assert seen["several"] == [[[1]], [[2]]]

    def test_a_savepoint_and_a_rollback(self, seen: Seen) -> None:
        assert (seen["error"], seen["inserted"], seen["rolledBack"], seen["afterTheRollback"]) == ("22012", 2, "given up", "42P01")

    def test_copy(self, seen: Seen) -> None:
        assert seen["copied"] == "1\tone\n2\ttwo\n"

    def test_notify(self, seen: Seen) -> None:
        assert seen["heard"] == "hello"


class TestModels:
    def test_build_tells_its_progress(self, seen: Seen) -> None:
        assert list(seen["built"]) == RESULT
        assert [seen["built"][name] for name in RESULT[:4]] == ["by_postgres_js", 1, ["blue", "red"], "24"]  # int8 comes as text
        assert shows_an_epoch(seen["notices"])
        assert seen["dropped"] == "DROP MODEL"

    def test_predict(self, seen: Seen, predicted: Predicted) -> None:
        assert (seen["columns"], seen["columnTypes"]) == (COLUMNS, [23, 25, 25, 25])
        assert (seen["rows"], seen["rowCount"]) == (listed(predicted), 24)
        assert seen["simple"] == listed(predicted)

    def test_described_before_it_runs(self, seen: Seen) -> None:
        assert seen["described"] == COLUMNS

    def test_parameters(self, seen: Seen, predicted: Predicted) -> None:
        red = [row for row in predicted if row[2] == "red"]
        assert seen["parameters"] == [listed([row for row in red if row[0] < end]) for end in (4, 12, 24)]

    def test_a_portal_read_in_parts(self, seen: Seen, predicted: Predicted) -> None:
        assert seen["portal"] == [listed(predicted[i : i + 7]) for i in range(0, 24, 7)]

    def test_row_by_row(self, seen: Seen) -> None:
        assert seen["forEach"] == list(range(24))

    def test_in_a_pipeline_with_ordinary_sql(self, seen: Seen) -> None:
        assert seen["piped"] == [1, 1, 2, 2, 3, 3]

    def test_a_failure_and_going_on(self, seen: Seen) -> None:
        assert seen["unknownModel"] == ["42704", "15", "LIST MODEL shows the models you may use."]
        assert seen["amongOthers"] == ["no error", "58P01", "no error"]
        assert (seen["inABlock"], seen["usable"]) == ("42704", "usable")

    def test_cancel(self, seen: Seen) -> None:
        assert seen["canceled"] == "57014"
