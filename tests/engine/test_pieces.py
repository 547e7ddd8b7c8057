"""Work on a thread of its own that is held while others have their turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from thanoproxy.engine.device import Device
from thanoproxy.engine.pieces import Pause, in_pieces


def test_items_come_in_order_and_none_where_it_gives_way(device: Device) -> None:
    turns: list[str] = []

    def work(pause: Pause) -> Iterator[int]:
        for number in range(3):
            turns.append(f"work {number}")
            pause()
            yield number

    found = []
    for item in in_pieces(device, work, 0):
        turns.append("others")
        found.append(item)
    assert found == [None, 0, None, 1, None, 2]
    assert turns == [turn for number in range(3) for turn in (f"work {number}", "others", "others")], "one at a time"


def test_it_does_not_give_way_oftener_than_it_should(device: Device) -> None:
    def work(pause: Pause) -> Iterator[int]:
        for _ in range(1000):
            pause()
        yield 1

    assert list(in_pieces(device, work, 60)) == [1]


def test_whoever_drives_it_is_told_what_went_wrong(device: Device) -> None:
    def work(pause: Pause) -> Iterator[int]:
        yield 1
        raise ValueError("no")

    pieces = in_pieces(device, work)
    assert next(pieces) == 1
    with pytest.raises(ValueError, match="no"):
        next(pieces)


def test_to_close_it_ends_the_work_and_its_thread(device: Device) -> None:
    ended = threading.Event()

    def work(pause: Pause) -> Iterator[int]:
        try:
            while True:
                pause()
                torch.ones(10).sum()
        finally:
            ended.set()
        yield 1

    threads = threading.active_count()
    pieces = in_pieces(device, work, 0)
    next(pieces)
    assert threading.active_count() == threads + 1
    pieces.close()
    assert ended.is_set()
    assert threading.active_count() == threads
