"""Threads that work ahead, in order, by priority, and stop when nobody wants more."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

import pytest

from thanoproxy.images.loader import PATIENCE, Begin, LoaderThreads, Steps, finish, ordered


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


def test_nobody_is_overtaken_for_ever() -> None:
    order: list[str] = []
    loader, begun, gate = LoaderThreads(1), threading.Event(), threading.Event()
    loader.submit(lambda: (begun.set(), gate.wait()))
    assert begun.wait(5)
    names = [("b1", 1), ("c1", 2), ("b2", 1), *(("a", 0) for _ in range(4 * PATIENCE))]
    futures = [loader.submit(partial(order.append, name), priority) for name, priority in names]
    gate.set()
    for future in futures:
        future.result(timeout=5)
    many = ["a"] * PATIENCE
    assert order == [*many, "b1", *many, "c1", *many, "b2", *many]
    loader.close()


def test_what_waits_when_the_threads_end_is_cancelled() -> None:
    loader, gate = LoaderThreads(1), threading.Event()
    runs, waits_for_it = loader.submit(gate.wait), loader.submit(lambda: 1, 1)
    closing = threading.Thread(target=loader.close)
    closing.start()
    gate.set()
    closing.join(5)
    assert runs.result(timeout=5)
    assert waits_for_it.cancelled() or waits_for_it.result() == 1
    assert loader.submit(lambda: 1).cancelled()


def test_every_thread_has_started_before_any_work() -> None:
    threads: list[threading.Thread] = []
    loader = LoaderThreads(4, lambda: threads.append(threading.current_thread()))
    assert sorted(thread.name for thread in threads) == ["loader-0", "loader-1", "loader-2", "loader-3"]
    loader.close()
    assert not any(thread.is_alive() for thread in threads)


# Work that waits.


def waits(begin: Begin, seen: list[str]) -> Steps[str]:
    """What it waits for, in capitals; an error of that as its text."""
    try:
        found: str = yield begin
    except ValueError as error:
        return f"failed: {error}"
    except GeneratorExit:
        seen.append("abandoned")
        raise
    return found.upper()


def test_work_that_waits_keeps_no_thread(threads: LoaderThreads) -> None:
    arriving: list[Future[str]] = [Future() for _ in range(20)]
    results = [threads.submit(partial(waits, lambda _, future=future: future, [])) for future in arriving]
    assert threads.submit(lambda: "at once").result(timeout=5) == "at once"
    assert not any(result.done() for result in results)
    for number, future in enumerate(arriving):
        future.set_result(f"x{number}")
    assert [result.result(timeout=5) for result in results] == [f"X{number}" for number in range(20)]


def test_what_goes_wrong_elsewhere_is_raised_where_it_is_waited_for(threads: LoaderThreads) -> None:
    arriving: Future[str] = Future()
    arriving.set_exception(ValueError("no"))
    assert threads.submit(partial(waits, lambda _: arriving, [])).result(timeout=5) == "failed: no"

    def refuse(_: int) -> Future[str]:
        raise ValueError("not even begun")

    assert threads.submit(partial(waits, refuse, [])).result(timeout=5) == "failed: not even begun"


def test_what_is_waited_for_has_the_priority_of_the_work(threads: LoaderThreads) -> None:
    def begin(priority: int) -> Future[str]:
        arriving: Future[str] = Future()
        arriving.set_result(f"p{priority}")
        return arriving

    assert [threads.submit(partial(waits, begin, []), priority).result(timeout=5) for priority in (0, 2)] == ["P0", "P2"]


def test_to_cancel_abandons_what_is_waited_for(threads: LoaderThreads) -> None:
    arriving: Future[str] = Future()
    begun, seen = threading.Event(), list[str]()

    def begin(_: int) -> Future[str]:
        begun.set()
        return arriving

    result = threads.submit(partial(waits, begin, seen))
    assert begun.wait(5)
    time.sleep(0.02)
    assert result.cancel()
    assert arriving.cancelled()
    assert threads.submit(lambda: 1).result(timeout=5) == 1
    deadline = time.monotonic() + 5
    while not seen and time.monotonic() < deadline:
        time.sleep(0.01)
    assert seen == ["abandoned"]


def test_steps_on_this_thread() -> None:
    arriving: Future[str] = Future()
    arriving.set_result("x")
    assert finish(waits(lambda _: arriving, [])) == "X"
    failing: Future[str] = Future()
    failing.set_exception(ValueError("no"))
    assert finish(waits(lambda _: failing, [])) == "failed: no"
