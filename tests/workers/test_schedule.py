"""Whose turn it is."""

from __future__ import annotations

import pytest

from thanoproxy.workers.schedule import PATIENCE, Passed, Ready, next_turn


def rows(backbone: str, count: int, *, bulk: bool = True, order: int = 0, batch_size: int = 16) -> Ready:
    return Ready(backbone, count, bulk, batch_size, order)


FRESH = Passed()


def test_with_nothing_to_do_it_idles_and_with_only_training_it_trains() -> None:
    assert next_turn([], False, FRESH).kind == "idle"
    assert next_turn([], True, FRESH).kind == "train"


def test_interactive_goes_before_bulk_and_bulk_before_training() -> None:
    waiting = [rows("a", 16, order=1), rows("b", 1, bulk=False, order=2)]
    assert next_turn(waiting, True, FRESH)[:2] == ("predict", [1])
    assert next_turn(waiting[:1], True, FRESH)[:2] == ("predict", [0])


def test_first_come_first_served_among_equals() -> None:
    assert next_turn([rows("a", 16, order=2), rows("b", 16, order=1)], False, FRESH).chosen == [1]


def test_sessions_of_one_backbone_share_a_batch_up_to_its_size() -> None:
    waiting = [rows("a", 6, order=1), rows("b", 2, order=2), rows("a", 6, order=3), rows("a", 6, order=4), rows("a", 4, order=5)]
    assert next_turn(waiting, False, FRESH).chosen == [0, 2, 4]


def test_bulk_rows_ride_along_with_an_interactive_one() -> None:
    waiting = [rows("a", 10, order=1), rows("a", 1, bulk=False, order=2), rows("a", 10, order=3)]
    assert next_turn(waiting, False, FRESH).chosen == [1, 0]


def test_a_chunk_larger_than_the_batch_still_goes() -> None:
    assert next_turn([rows("a", 100)], False, FRESH).chosen == [0]


@pytest.mark.parametrize(("training", "bulk"), [(True, False), (False, True), (True, True)])
def test_nobody_starves(training: bool, bulk: bool) -> None:
    """A client that always has an interactive row ready cannot stop the others for good."""
    passed, turns = FRESH, []
    for order in range(100):
        ready = [rows("a", 1, bulk=False, order=order)] + ([rows("b", 16, order=-1)] if bulk else [])
        turn = next_turn(ready, training, passed)
        passed = turn.passed
        turns.append("train" if turn.kind == "train" else ready[turn.chosen[0]].backbone)
    assert turns.count("train") == (100 // (PATIENCE["training"] + 1) if training else 0)
    assert turns.count("b") >= (100 // (PATIENCE["bulk"] + 1) if bulk else 0)
    assert turns.count("a") > 60
