"""Threads that work ahead, in order, by priority, and stop when nobody wants more."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from thanoproxy.images.loader import LoaderThreads, ordered


@pytest.fixture
def threads() -> Iterator[LoaderThreads]:
    loader = LoaderThreads(3)
    yield loader
    loader.close()


def test_results_come_in_the_order_of_the_items(threads: LoaderThreads) -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number % 5 == 0 else 0)
        return number * number

    assert [future.result() for future in ordered(threads, range(50), slow_first, ahead=8)] == [n * n for n in range(50)]


def test_no_more_than_the_window_is_loaded_ahead(threads: LoaderThreads) -> None:
    begun: list[int] = []
    loaded = ordered(threads, range(1000), lambda number: begun.append(number), ahead=10)
    next(loaded)
    time.sleep(0.05)
    assert 10 <= len(begun) <= 11
    loaded.close()
    time.sleep(0.05)
    assert len(begun) <= 11


def test_an_error_is_its_own_items_alone(threads: LoaderThreads) -> None:
    def odd_fails(number: int) -> int:
        if number % 2:
            raise ValueError(number)
        return number

    errors = [future.exception() is not None for future in ordered(threads, range(6), odd_fails, ahead=4)]
    assert errors == [False, True] * 3


def test_lower_priority_numbers_overtake() -> None:
    order: list[str] = []
    loader, gate = LoaderThreads(1), threading.Event()
    loader.submit(gate.wait)
    futures = [loader.submit(partial(order.append, name), priority) for name, priority in [("b1", 1), ("b2", 1), ("a", 0)]]
    gate.set()
    for future in futures:
        future.result(timeout=5)
    assert order == ["a", "b1", "b2"]
    loader.close()


def test_every_thread_has_started_before_any_work() -> None:
    threads: list[threading.Thread] = []
    loader = LoaderThreads(4, lambda: threads.append(threading.current_thread()))
    assert sorted(thread.name for thread in threads) == ["loader-0", "loader-1", "loader-2", "loader-3"]
    loader.close()
    assert not any(thread.is_alive() for thread in threads)
