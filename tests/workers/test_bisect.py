"""The search for rows that kill workers."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from thanoproxy.workers import bisect
from thanoproxy.workers.bisect import Search


def search(rows: int, deadly: set[int], accidents: frozenset[int] = frozenset()) -> tuple[Search, list[range], list[int]]:
    """To its end: what it found, the trials, and the rows that came through.  The trials numbered in `accidents` die of something else."""
    found, trials, cleared = bisect.begin(rows), list[range](), list[int]()
    while found.parts:
        part = found.parts[0].rows
        trials.append(part)
        if deadly.intersection(part) or len(trials) in accidents:
            found = bisect.died(found)
        else:
            cleared += part
            found = bisect.passed(found)
    return found, trials, cleared


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 64])
def test_innocent_rows_are_tried_in_two_halves_and_cleared(rows: int) -> None:
    found, trials, cleared = search(rows, set())
    assert (found.guilty, found.deaths, cleared) == ((), 0, [*range(rows)])
    assert len(trials) == min(rows, 2) or rows == 0


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 64])
def test_every_single_row_is_found_and_all_others_are_cleared(rows: int) -> None:
    for guilty in range(rows):
        found, _, cleared = search(rows, {guilty})
        assert found.guilty == (guilty,)
        assert sorted(cleared) == [row for row in range(rows) if row != guilty]
        assert found.deaths <= math.ceil(math.log2(rows)) + bisect.PROOF - (rows > 1), "one for each halving, and the proof"


def test_two_of_a_batch_are_within_the_limit() -> None:
    for pair in itertools.combinations(range(64), 2):
        found, _, cleared = search(64, set(pair))
        assert found.guilty == pair
        assert len(cleared) == 62
        assert found.deaths <= bisect.DEATHS


def test_any_number_is_found() -> None:
    draw = random.Random(5)
    for _ in range(300):
        rows = draw.randint(1, 40)
        deadly = set(draw.sample(range(rows), draw.randint(0, rows)))
        found, _, cleared = search(rows, deadly)
        assert set(found.guilty) == deadly
        assert sorted([*cleared, *found.guilty]) == [*range(rows)]


def test_one_worker_that_dies_of_something_else_gets_no_row_blamed() -> None:
    for rows, accident in itertools.product((1, 2, 3, 16), range(1, 12)):
        found, _, cleared = search(rows, set(), frozenset({accident}))
        assert found.guilty == ()
        assert sorted(cleared) == [*range(rows)]
