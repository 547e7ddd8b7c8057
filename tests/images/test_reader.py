"""Reads on their way: in order, bounded, abandoned."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from thanoproxy.errors import WorkerFailure
from thanoproxy.images.reader import Reader


@pytest.fixture
def reader() -> Iterator[Reader]:
    made = Reader(4)
    yield made
    made.close()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Gate:
    """Work that begins, and ends when it may."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.open = threading.Event()

    async def __call__(self, name: str) -> str:
        self.begun.append(name)
        try:
            while not self.open.is_set():  # noqa: ASYNC110 - opened by another thread
                await asyncio.sleep(0.005)
        finally:
            self.ended.append(name)
        return name


@pytest.fixture
def gate(reader: Reader) -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


def test_no_more_than_so_many_at_once_and_first_who_is_first(reader: Reader, gate: Gate) -> None:
    futures = [reader.begin(lambda name=name: gate(name), name, 1) for name in "abcdefgh"]
    urgent = reader.begin(lambda: gate("urgent"), "z", 0)
    until(lambda: len(gate.begun) == 4)
    time.sleep(0.03)
    assert gate.begun == ["a", "b", "c", "d"]
    gate.open.set()
    assert [future.result(5) for future in [*futures, urgent]] == [*"abcdefgh", "urgent"]
    assert gate.begun == ["a", "b", "c", "d", "urgent", "e", "f", "g", "h"]


def test_one_place_leaves_a_quarter_to_the_others(reader: Reader, gate: Gate) -> None:
    for number in range(6):
        reader.begin(lambda name=f"slow{number}": gate(name), "slow", 0)
    reader.begin(lambda: gate("other"), "other", 2)
    until(lambda: len(gate.begun) == 4)
    assert gate.begun == ["slow0", "slow1", "slow2", "other"]


def test_what_is_cancelled_ends_or_never_begins(reader: Reader, gate: Gate) -> None:
    futures = [reader.begin(lambda name=name: gate(name), name, 0) for name in "abcdef"]
    until(lambda: len(gate.begun) == 4)
    assert futures[4].cancel()
    assert futures[0].cancel()
    until(lambda: gate.begun == ["a", "b", "c", "d", "f"])
    assert gate.ended == ["a"]
    gate.open.set()
    assert [futures[at].result(5) for at in (1, 2, 3, 5)] == ["b", "c", "d", "f"]


def test_cancelled_at_once_and_many_times_leaves_every_place_free(reader: Reader, gate: Gate) -> None:
    for _ in range(200):
        reader.begin(lambda: gate("x"), "x", 0).cancel()
    gate.open.set()
    assert [reader.begin(lambda name=name: gate(name), name, 0).result(5) for name in "abcde"] == [*"abcde"]


def test_the_end_fails_what_is_not_there_yet(gate: Gate) -> None:
    closing = Reader(2)
    ended: list[str] = []

    async def at_end() -> None:
        ended.append("closed")

    futures = [closing.begin(lambda: gate("x"), "x", 0) for _ in range(5)]
    closing.at_end(at_end)
    closing.close()
    for future in [*futures, closing.begin(lambda: gate("late"), "x", 0)]:
        with pytest.raises(WorkerFailure, match="being stopped"):
            future.result(5)
    assert ended == ["closed"]
    closing.close()


def test_a_reader_that_nobody_uses_has_no_thread() -> None:
    before = threading.active_count()
    Reader(4).close()
    assert threading.active_count() == before
