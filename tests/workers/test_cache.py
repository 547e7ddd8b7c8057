"""What is kept under which name, and how much of it."""

from __future__ import annotations

import tracemalloc

from thanoproxy.workers.cache import ENTRY_BYTES, PredictionCache, name_of, subject_of


def some_name(number: int) -> bytes:
    return name_of(bytes(32), subject_of(str(number)), b"mark")


def test_what_was_not_asked_for_the_longest_time_goes_first() -> None:
    cache = PredictionCache(3 * (ENTRY_BYTES + 8))
    names = [some_name(number) for number in range(4)]
    for name in names[:3]:
        cache.keep(name, b"8 bytes.")
    assert cache.find(names[:1]) == [b"8 bytes."]
    cache.keep(names[3], b"8 bytes.")
    assert cache.find(names) == [b"8 bytes.", None, b"8 bytes.", b"8 bytes."]
    assert cache.held == 3 * (ENTRY_BYTES + 8)


def test_what_is_kept_twice_counts_once_and_what_is_too_large_is_not_kept() -> None:
    cache = PredictionCache(ENTRY_BYTES + 8)
    for _ in range(3):
        cache.keep(some_name(1), b"8 bytes.")
    cache.keep(some_name(2), bytes(9))
    assert cache.find([some_name(1), some_name(2)]) == [b"8 bytes.", None]
    assert cache.held == ENTRY_BYTES + 8


def test_without_a_budget_it_is_none() -> None:
    cache = PredictionCache(0)
    cache.keep(some_name(1), b"")
    assert not cache
    assert cache.find([some_name(1)]) == [None]


def test_the_budget_is_what_it_takes_of_memory() -> None:
    budget = 4 << 20
    tracemalloc.start()
    try:
        cache, before = PredictionCache(budget), tracemalloc.get_traced_memory()[0]
        # Two classes, so that next to nothing of it are the numbers; three times as many as there is room for.
        for number in range(3 * budget // ENTRY_BYTES):
            cache.keep(some_name(number), number.to_bytes(8, "big"))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert budget - ENTRY_BYTES - 8 < cache.held <= budget
    assert budget / 2 < taken <= budget


def test_a_name_says_who_made_it_of_what_and_when() -> None:
    makers, images, marks = [bytes(32), bytes(31) + b"1"], ["a", b"a", "b", "a" * 999, b"a" * 999], [b"", b"1"]
    names = {name_of(maker, subject_of(image), mark) for maker in makers for image in images for mark in marks}
    assert len(names) == 2 * 5 * 2
    assert name_of(bytes(32), subject_of("1a"), b"") != name_of(bytes(32), subject_of("a"), b"t1"), "nor can one run into the other"
