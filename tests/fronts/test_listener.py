"""Who of several fronts accepts the next client."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from thanoproxy.fronts.listener import SharedListener, Tally
from thanoproxy.session.listener import listen

FRONTS = 3


@pytest.fixture
async def listeners(tmp_path: Path) -> AsyncIterator[list[SharedListener]]:
    Tally.make(str(tmp_path), FRONTS)
    first = listen(("127.0.0.1", 0))
    made = [SharedListener(sock, Tally(str(tmp_path)), n) for n, sock in enumerate([first, *(first.dup() for _ in range(FRONTS - 1))])]
    yield made
    for listener in made:
        listener.close()


async def accept(listener: SharedListener, kept: list[socket.socket], came: Callable[[], None]) -> None:
    while True:
        kept.append(await listener.accept())
        listener.clients += 1
        came()


async def connect(listeners: list[SharedListener], clients: int, accepting: list[SharedListener]) -> list[int]:
    """How many of `clients` each listener got, while only those of `accepting` look."""
    kept: list[list[socket.socket]] = [[] for _ in listeners]
    enough = asyncio.Event()

    def came() -> None:
        if sum(map(len, kept)) == clients:
            enough.set()

    tasks = [asyncio.create_task(accept(listener, kept[listeners.index(listener)], came)) for listener in accepting]
    ours = [socket.create_connection(listeners[0].address) for _ in range(clients)]
    async with asyncio.timeout(5):
        await enough.wait()
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    for sock in [*ours, *(sock for part in kept for sock in part)]:
        sock.close()
    return list(map(len, kept))


async def test_clients_are_spread_evenly(listeners: list[SharedListener]) -> None:
    got = await connect(listeners, 30, listeners)
    assert max(got) - min(got) <= 2


async def test_whoever_has_more_lets_the_others_catch_up(listeners: list[SharedListener]) -> None:
    listeners[0].clients = 10
    got = await connect(listeners, 12, listeners)
    assert got[0] <= 2, "it stands back, though not for ever"
    assert abs(got[1] - got[2]) <= 2
    assert [listener.clients for listener in listeners] == [10 + got[0], got[1], got[2]]


async def test_a_front_that_does_not_accept_keeps_nobody_waiting(listeners: list[SharedListener]) -> None:
    assert await connect(listeners, 10, listeners[1:2]) == [0, 10, 0]
