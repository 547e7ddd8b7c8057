"""What a worker does with the memory of a BUILD that is over."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.workers.conftest import Rows, build
from thanoproxy.workers import device_loop, jobs
from thanoproxy.workers.inline import InlinePool
from thanoproxy.workers.memory import KeptMemory
from thanoproxy.workers.settings import WorkerSettings


async def test_it_is_kept_for_the_next_one_and_then_given_back(
    settings: WorkerSettings, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []
    monkeypatch.setattr(device_loop, "KeptMemory", lambda: KeptMemory(2.0, lambda: given.append(time.monotonic())))
    pool = InlinePool(settings)
    await pool.start()
    try:
        for _ in range(2):
            built = await build(pool, rows[:8], tmp_path)
            ended = time.monotonic()
            assert not given
        while not given:  # also while there are others to be served
            await pool.predict(jobs.Predict("p", built.artifact, ["0.png"]))
            assert time.monotonic() < ended + 20
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
    finally:
        await pool.close()
    assert len(given) == 1
    assert given[0] >= ended + 1.5
