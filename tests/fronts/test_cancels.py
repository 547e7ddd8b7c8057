"""A cancel request that came to the wrong front finds the right one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from thanoproxy.fronts import cancels
from thanoproxy.fronts.cancels import Cancels
from thanoproxy.wire.startup import Cancel

HERS = Cancel(7, b"secret key")


class Front:
    """One that has the sessions of `keys`, and takes `seconds` to cancel something."""

    def __init__(self, folder: Path, number: int, *keys: Cancel, seconds: float = 0) -> None:
        (folder / str(number)).mkdir(exist_ok=True)
        self.keys = keys
        self.asked: list[Cancel] = []
        self.done: list[Cancel] = []
        self.seconds = seconds
        self.cancels = Cancels(str(folder), number, 3, self.cancel)

    async def cancel(self, request: Cancel) -> bool:
        self.asked.append(request)
        if request in self.keys:
            await asyncio.sleep(self.seconds)
            self.done.append(request)
        return request in self.keys


@pytest.fixture
async def fronts(tmp_path: Path) -> AsyncIterator[list[Front]]:
    made = [Front(tmp_path, 0), Front(tmp_path, 1), Front(tmp_path, 2, HERS, seconds=0.2)]
    for front in made:
        await front.cancels.open()
    yield made
    for front in made:
        front.cancels.close()


async def test_the_front_that_has_the_session_carries_it_out_before_the_other_is_told(fronts: list[Front]) -> None:
    await fronts[0].cancels.elsewhere(HERS)
    assert [front.done for front in fronts] == [[], [], [HERS]]


@pytest.mark.parametrize("wrong", [Cancel(8, HERS.key), Cancel(HERS.pid, HERS.key + b"x"), Cancel(HERS.pid, b""), Cancel(0, b"k" * 256)])
async def test_a_wrong_key_cancels_nothing_and_is_passed_on_only_once(fronts: list[Front], wrong: Cancel) -> None:
    await fronts[0].cancels.elsewhere(wrong)
    assert [front.asked for front in fronts] == [[], [wrong], [wrong]]
    assert [front.done for front in fronts] == [[], [], []]


async def test_fronts_that_are_gone_or_come_back_hold_up_nothing(fronts: list[Front], tmp_path: Path) -> None:
    fronts[1].cancels.close()
    (tmp_path / "2" / "cancels").unlink()
    await fronts[0].cancels.elsewhere(HERS)
    successor = Front(tmp_path, 2, HERS)
    await successor.cancels.open()
    await fronts[0].cancels.elsewhere(HERS)
    assert successor.done == [HERS]
    successor.cancels.close()


async def test_nobody_waits_for_a_front_that_hangs(fronts: list[Front], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancels, "PATIENCE", 0.1)
    fronts[2].seconds = 1
    start = time.monotonic()
    await fronts[0].cancels.elsewhere(HERS)
    assert time.monotonic() - start < 0.9


async def test_what_breaks_off_is_no_request(fronts: list[Front], tmp_path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "2" / "cancels"))
    writer.write(HERS.encode()[:-1])
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    assert fronts[2].asked == []
