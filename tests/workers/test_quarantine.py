"""Images that kill workers, and workers that hang: found, replaced, and nobody else's concern."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from tests.workers.conftest import Rows, attached
from tests.workers.test_local import gone
from thanoproxy.errors import Canceled, WorkerFailure
from thanoproxy.workers import bisect, jobs
from thanoproxy.workers.local import LocalPool
from thanoproxy.workers.quarantine import Quarantine
from thanoproxy.workers.settings import WorkerSettings

DEADLY = Path(__file__).parent / "deadly"
HANG_AFTER = 2.0


@pytest.fixture
def fragile(settings: WorkerSettings, artifact: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WorkerSettings]:
    """Settings of workers that images can kill, or make hang."""
    monkeypatch.setenv("PYTHONPATH", f"{DEADLY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield msgspec.structs.replace(settings, hang_after=HANG_AFTER)
    assert os.listdir(tmp_path) == [], "no folder is left"


@asynccontextmanager
async def pool_of(fragile: WorkerSettings) -> AsyncIterator[LocalPool]:
    pool = LocalPool(fragile)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def classes_of(answer: jobs.Predicted) -> list[int | None]:
    return [None if classes is None else classes[0] for classes in answer.classes]


async def soon(find: Callable[[], list[int]]) -> int:
    """The process that `find` finds, once it does."""
    for _ in range(1000):
        if found := find():
            return found[0]
        await asyncio.sleep(0.02)
    raise AssertionError("not in time")


def apart(quarantine: Quarantine) -> list[int]:
    return [] if quarantine._cell is None else [quarantine._cell.child.pid]


async def test_the_image_that_kills_is_found_and_others_have_only_waited(fragile: WorkerSettings, rows: Rows, artifact: str) -> None:
    images: list[jobs.Image] = ["0.png", None, "gone.png", "deadly:1"]
    async with pool_of(fragile) as local, attached(local) as pool:
        guilty = asyncio.create_task(pool.predict(jobs.Predict("a", artifact, images, vector="probabilities")))
        # Another session's rows are in the worker when it dies, and again when it is tried a second time.
        other = await local.predict(jobs.Predict("b", artifact, [image for image, _ in rows[:16]]))
        assert (classes_of(other), other.failures) == ([1, 0] * 8, {})
        await soon(lambda: apart(pool._quarantine))
        pid = await soon(lambda: local.pids)
        while not guilty.done():
            await local.predict(jobs.Predict("c", artifact, ["0.png"], bulk=False))
            await asyncio.sleep(0.1)
        assert local.pids == [pid], "from then on it kills nobody else's worker"
        answer = await guilty
        assert not apart(pool._quarantine), "it ends when nobody is left in it"
    assert classes_of(answer) == [1, None, None, None]
    assert [vector is None for vector in answer.vectors] == [False, True, True, True]
    assert {row: (failure.sqlstate, failure.row) for row, failure in answer.failures.items()} == {2: ("58P01", 2), 3: ("22P03", 3)}
    assert answer.failures[3].message == 'image "deadly:1": worker processes die of it'
    assert answer.failures[3].detail == "It was ended by signal 9."
    assert answer.device == "cpu"


async def test_more_than_a_few_such_images_are_too_many(fragile: WorkerSettings, artifact: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bisect, "DEATHS", 1)
    with pytest.raises(WorkerFailure, match="1 worker processes died of this batch of 3 images") as caught:
        await Quarantine(fragile).predict(jobs.Predict("a", artifact, ["deadly:1", "deadly:2", "deadly:3"]))
    assert caught.value.detail == "It was ended by signal 9."


async def test_who_gives_up_leaves_nothing_and_the_next_gets_its_turn(fragile: WorkerSettings, artifact: str) -> None:
    quarantine = Quarantine(fragile)
    first = asyncio.create_task(quarantine.predict(jobs.Predict("a", artifact, ["frozen:1", "0.png"])))
    second = asyncio.create_task(quarantine.predict(jobs.Predict("b", artifact, ["0.png", "1.png"])))
    third = asyncio.create_task(quarantine.predict(jobs.Predict("c", artifact, ["frozen:1", "0.png"])))
    pid = await soon(lambda: apart(quarantine))
    first.cancel()
    assert classes_of(await second) == [1, 0]
    assert await soon(lambda: apart(quarantine)) == pid
    await quarantine.close()
    with pytest.raises(Canceled):
        await third
    assert await gone(pid)


async def test_an_image_that_is_never_read_to_its_end_is_found_too(
    fragile: WorkerSettings, artifact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bisect, "PROOF", 1)
    answer = await Quarantine(fragile).predict(jobs.Predict("a", artifact, ["0.png", "frozen:1"]))
    assert classes_of(answer) == [1, None]
    assert "loader" in str(answer.failures[1].detail)
    assert "thread did not get on for 2 seconds." in str(answer.failures[1].detail)


async def test_a_worker_that_does_nothing_any_more_is_replaced(fragile: WorkerSettings, artifact: str) -> None:
    async with pool_of(fragile) as local:
        [pid] = local.pids
        os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        request = jobs.Predict("b", artifact, ["0.png", "1.png"])
        assert classes_of(await local.predict(request)) == [1, 0]
        assert time.monotonic() - started > HANG_AFTER / 2
        assert await gone(pid)
        assert local.places[0].problem == "It did not answer for 2 seconds."

        [pid] = local.pids
        await local.predict(jobs.Predict("a", artifact, ["stuck:1"]))
        assert classes_of(await local.predict(request)) == [1, 0]
        assert await gone(pid)
        assert local.places[0].problem == "Its device thread did not get on for 2 seconds."
