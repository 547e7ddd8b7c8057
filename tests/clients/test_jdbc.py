"""pgjdbc in each of its query modes; the program is `Jdbc.java`, and here is what it must see."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.java import compiled, run_java
from tests.clients.pictures import COLUMNS, RESULT, Predicted

MODES = ["simple", "extended", "extendedForPrepared", "extendedCacheEverything"]
Seen = dict[str, str]


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(Path(__file__).with_name("Jdbc.java"), tmp_path_factory.mktemp("classes"))


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def seen(classes: Path, url: str, mode: str) -> Seen:
    """One run of the program: what it saw, by the name it gave it."""
    return dict(line.split(": ", 1) for line in run_java(classes, "Jdbc", url, mode).splitlines())


def listed(rows: list[str]) -> str:
    """As Java writes a list."""
    return f"[{', '.join(rows)}]"


def shown(predicted: Predicted) -> list[str]:
    return ["|".join(map(str, row)) for row in predicted]


DESCRIBED = listed([f"{name} {'int4' if name == 'id' else 'text'}" for name in COLUMNS])


class TestOrdinarySQL:
    def test_types(self, seen: Seen) -> None:
        assert seen["types"] == "[7|Grüße 😀|1.50|t|null|{1,NULL,3}]"

    def test_a_rollback_a_savepoint_and_an_error(self, seen: Seen) -> None:
        assert (seen["create"], seen["error"], seen["after the error"]) == ("no error", "22012", "25P02")
        assert (seen["after the savepoint"], seen["after the rollback"]) == ("[0]", "42P01")

    def test_a_batch(self, seen: Seen) -> None:
        assert (seen["batch"], seen["sum"]) == ("300", "[45150]")

    def test_copy(self, seen: Seen) -> None:
        assert (seen["copied in"], seen["copied out"]) == ("2", "1000,one;1001,;")

    def test_notify(self, seen: Seen) -> None:
        assert seen["heard"] == "jdbc_news hello"

    def test_a_timeout_cancels(self, seen: Seen) -> None:
        assert (seen["timeout"], seen["after the timeout"]) == ("57014", "[1]")

    def test_the_catalogue(self, seen: Seen) -> None:
        assert seen["table"] == "[id int4, image text, label text]"

    def test_rows_in_parts(self, seen: Seen) -> None:
        assert seen["fetched ordinary"] == "120"


class TestModels:
    def test_build_tells_its_progress(self, seen: Seen, mode: str) -> None:
        assert (seen["built"], seen["classes"]) == (f"by_jdbc_{mode.lower()} 1 24", "[blue, red]")
        assert seen["result"] == listed(
            [f"{name} {kind}" for name, kind in zip(RESULT, ("text", "int4", "_text", "int8", "float8", "float8"), strict=True)]
        )
        assert seen["epochs told"] == "1"

    def test_drop(self, seen: Seen) -> None:
        assert (seen["dropped"], seen["dropped twice"]) == ("no error", "42704")

    def test_predict(self, seen: Seen, predicted: Predicted) -> None:
        assert (seen["columns"], seen["rows"]) == (DESCRIBED, listed(shown(predicted)))

    def test_inside_other_sql(self, seen: Seen, predicted: Predicted) -> None:
        assert seen["wrapped"] == listed([row for i in range(7) for row in shown(predicted)[18 + i :]])
        assert (seen["wrapped columns"], seen["made"]) == (DESCRIBED, "[9]")

    def test_between_other_statements(self, seen: Seen, predicted: Predicted) -> None:
        assert seen["several"] == f"[[before], {listed(shown(predicted[:2]))}, [after]]"

    def test_described_before_it_runs(self, seen: Seen, mode: str) -> None:
        if mode == "simple":
            pytest.skip("pgjdbc describes nothing in this mode")
        assert (seen["described"], seen["parameters"]) == (DESCRIBED, "text int4")

    def test_a_statement_that_becomes_named_and_binary(self, seen: Seen, predicted: Predicted) -> None:
        assert seen["prepared"] == listed(shown(predicted))
        assert (seen["named"], seen["as int"]) == ("true", "0")

    def test_rows_in_parts(self, seen: Seen, predicted: Predicted) -> None:
        assert seen["fetched"] == listed(shown(predicted))
        assert seen["max rows"] == seen["max rows ordinary"]  # 7, or all where the driver uses the simple protocol

    def test_a_failure_and_going_on(self, seen: Seen) -> None:
        assert seen["unknown model"] == "42704"
        assert [seen[f"image {name}"] for name in ("red/1.png", "gone.png", "blue/1.png")] == ["1", "58P01", "1"]

    def test_a_failure_fails_the_transaction(self, seen: Seen) -> None:
        assert (seen["in a block"], seen["block failed"], seen["block gone"]) == ("42704", "25P02", "42P01")

    def test_a_timeout_cancels(self, seen: Seen) -> None:
        assert (seen["canceled"], seen["after the cancel"]) == ("57014", "[1]")
