"""Workers shared by several pools: their owner replaces those that die, and everybody goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from tests.workers.conftest import Rows, attached, build, building, started
from tests.workers.test_pools import SLOW
from thanoproxy.errors import Canceled, WorkerFailure
from thanoproxy.workers import attached as attached_module
from thanoproxy.workers import jobs, seat
from thanoproxy.workers.attached import AttachedPool, Place
from thanoproxy.workers.local import LocalPool
from thanoproxy.workers.settings import WorkerSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def local(settings: WorkerSettings) -> AsyncIterator[LocalPool]:
    """As elsewhere, on the loop of these tests."""
    async with started(LocalPool(settings)) as pool:
        yield pool


async def test_a_predict_whose_worker_is_killed_is_answered_by_the_next(local: LocalPool, rows: Rows, artifact: str) -> None:
    async with attached(local) as pool:
        await pool.load(jobs.Load("load", artifact))
        asyncio.get_running_loop().call_later(0.3, os.kill, local.pids[0], signal.SIGKILL)
        answer = await pool.predict(jobs.Predict("p", artifact, [image for image, _ in rows] * 30))
        assert len(answer.classes) == 1200


async def build_and_kill(pool: AttachedPool, local: LocalPool, rows: Rows, folder: Path, *, resumable: bool = True) -> None:
    with building(rows, folder, **SLOW) as request:
        async for report in pool.build(request if resumable else msgspec.structs.replace(request, checkpoint=None)):
            if isinstance(report, jobs.Progress) and report.phase == "training":
                os.kill(local.pids[0], signal.SIGKILL)


async def test_a_build_whose_worker_is_killed_says_how_it_ended(local: LocalPool, rows: Rows, tmp_path: Path) -> None:
    async with attached(local) as pool:
        with pytest.raises(WorkerFailure, match="the worker process died") as caught:
            await build_and_kill(pool, local, rows, tmp_path)
        assert caught.value.detail == "It was ended by signal 9."
        assert (await build(pool, rows, tmp_path)).classes == ["blue", "red"]


async def test_a_job_of_one_does_not_touch_the_same_name_of_another(shared: LocalPool, rows: Rows, artifact: str) -> None:
    async with attached(shared) as one, attached(shared) as two:
        tasks = [asyncio.create_task(pool.predict(jobs.Predict("p", artifact, [image for image, _ in rows] * 10))) for pool in (one, two)]
        await asyncio.sleep(0.1)
        tasks[0].cancel()
        assert len((await tasks[1]).classes) == 400
        assert tasks[0].cancelled()


async def test_one_that_leaves_takes_its_jobs_with_it_and_no_worker(shared: LocalPool, rows: Rows, artifact: str, tmp_path: Path) -> None:
    pids = shared.pids
    with building(rows, tmp_path, **SLOW) as request:
        async with attached(shared) as pool:
            reports = pool.build(request)
            await anext(reports)
        with pytest.raises(Canceled):
            async for _ in reports:
                pass
    assert len((await shared.predict(jobs.Predict("p", artifact, ["0.png"]))).classes) == 1
    assert shared.pids == pids


async def test_a_worker_that_can_no_longer_be_started_is_said_so(local: LocalPool, artifact: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "BACKOFF", (0.0,))
    async with attached(local) as pool:
        monkeypatch.setattr(sys, "executable", "/bin/false")
        os.kill(local.pids[0], signal.SIGKILL)
        with pytest.raises(WorkerFailure, match="no worker can be started"):
            await pool.predict(jobs.Predict("p", artifact, ["0.png"]))


async def test_an_owner_that_says_nothing_holds_up_no_failure(
    local: LocalPool, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attached_module, "PATIENCE", 0.1)
    async with attached(local) as pool:
        local.on_change = lambda: None
        with pytest.raises(WorkerFailure, match="the worker process died") as caught:
            await build_and_kill(pool, local, rows, tmp_path, resumable=False)  # a resumable one waits for another worker
        assert caught.value.detail is None


async def test_idle_workers_are_not_all_asked_in_the_same_order(settings: WorkerSettings) -> None:
    local = LocalPool(msgspec.structs.replace(settings, devices=("cpu", "cpu"), threads=1))
    await local.start()
    try:
        places = local.places
        assert len({place.socket for place in places}) == 2
        firsts = set()
        for number in range(2):
            async with attached(local, number) as pool:
                firsts.add((await pool._pick())._writer.get_extra_info("peername"))
        assert firsts == {place.socket for place in places}
    finally:
        await local.close()


async def test_a_worker_that_is_not_there_yet_is_waited_for(shared: LocalPool, settings: WorkerSettings, artifact: str) -> None:
    pool = AttachedPool([Place(None, "It was ended by signal 9.")], settings)
    await pool.start()
    task = asyncio.create_task(pool.predict(jobs.Predict("p", artifact, ["0.png"])))
    await asyncio.sleep(0.05)
    assert not task.done()
    pool.follow([Place("/no/such/socket")])
    await asyncio.sleep(0.05)
    pool.follow(shared.places)
    assert len((await task).classes) == 1
    await pool.close()
