"""What every pool does, whichever way its workers run."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from tests.workers.conftest import Rows, attached, build, building, started
from thanoproxy.catalog.artifacts import open_store
from thanoproxy.errors import ArtifactCorrupt, Canceled, FileUnavailable, InvalidOption
from thanoproxy.workers import device_loop, jobs
from thanoproxy.workers.attached import AttachedPool
from thanoproxy.workers.inline import InlinePool
from thanoproxy.workers.local import LocalPool
from thanoproxy.workers.pool import Pool
from thanoproxy.workers.settings import WorkerSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOW = {"pretrained": False, "tune": "full", "epochs": 1000, "batch_size": 4, "augment": False}
"""Options of a BUILD that would run for an hour."""

KINDS = [InlinePool, LocalPool, AttachedPool]


@pytest_asyncio.fixture(loop_scope="module", params=KINDS)
async def pool(request: pytest.FixtureRequest, settings: WorkerSettings, shared: LocalPool) -> AsyncIterator[Pool]:
    """A started pool, of each kind in turn; where it has a worker process, that is `shared`."""
    if request.param is LocalPool:
        yield shared
    elif request.param is AttachedPool:
        async with attached(shared) as guest:
            yield guest
    else:
        async with started(InlinePool(settings)) as inline:
            yield inline


@pytest_asyncio.fixture(loop_scope="module", params=KINDS)
async def closable(request: pytest.FixtureRequest, settings: WorkerSettings, shared: LocalPool) -> AsyncIterator[Pool]:
    """The same for a test that closes it."""
    if request.param is AttachedPool:
        async with attached(shared) as guest:
            yield guest
    else:
        async with started(request.param(settings)) as own:
            yield own


async def test_build_then_predict(pool: Pool, rows: Rows, tmp_path: Path) -> None:
    with building(rows, tmp_path, epochs=2) as request:
        reports = [report async for report in pool.build(request)]
    built = reports[-1]
    assert isinstance(built, jobs.Built)
    assert {report.job for report in reports} == {request.job}
    assert [report.epoch.epoch for report in reports[:-1] if isinstance(report, jobs.Progress) and report.epoch] == [1, 2]
    loaded = await pool.load(jobs.Load("load", built.artifact))
    assert loaded.classes == built.classes == ["blue", "red"]
    answers = await asyncio.gather(
        *(pool.predict(jobs.Predict(f"p{at}", built.artifact, [image for image, _ in rows[at : at + 7]])) for at in range(0, 40, 7))
    )
    found = [loaded.classes[classes[0]] for answer in answers for classes in answer.classes if classes]
    assert found == [label for _, label in rows]


async def test_a_row_that_fails_is_reported_beside_the_others(pool: Pool, artifact: str) -> None:
    images: list[jobs.Image] = ["0.png", None, "gone.png", "../models", b"no image", "1.png"]
    answer = await pool.predict(jobs.Predict("p", artifact, images, top_k=2, bulk=False))
    assert [classes is not None for classes in answer.classes] == [True, False, False, False, False, True]
    assert {row: failure.sqlstate for row, failure in answer.failures.items()} == {2: "58P01", 3: "58P01", 4: "22P03"}
    assert answer.failures[2].row == 2
    assert answer.scores[0] is not None
    assert sum(answer.scores[0]) == pytest.approx(1)
    assert (await pool.predict(jobs.Predict("none", artifact, []))).classes == []
    assert (await pool.predict(jobs.Predict("nulls", artifact, [None, None]))).classes == [None, None]


async def test_an_image_is_another_when_its_file_is_written_anew(pool: Pool) -> None:
    images: list[jobs.Image] = ["0.png", "gone.png", b"bytes", "data:,x", None, "s3://bucket/1.png"]
    first, second = [(await pool.identify(jobs.Identify(job, images))).identities for job in ("a", "b")]
    assert first == second
    assert first[0]
    assert first[1:] == [None, "", "", None, None]


async def test_vectors_come_beside_the_classes_of_others_in_the_same_batch(pool: Pool, rows: Rows, artifact: str) -> None:
    wanted: list[tuple[int, jobs.Vector | None]] = [(1, None), (0, "features"), (2, "probabilities")]
    images: list[jobs.Image] = [*(image for image, _ in rows[:5]), None, "gone.png"]
    answers = await asyncio.gather(
        *(pool.predict(jobs.Predict(f"p{vector}", artifact, images, top_k=top_k, vector=vector)) for top_k, vector in wanted)
    )
    assert [[vector and len(vector) for vector in answer.vectors] for answer in answers] == [
        [],
        [4 * 1280] * 5 + [None, None],
        [4 * 2] * 5 + [None, None],
    ]
    assert [None if answer.classes[4] is None else len(answer.classes[4]) for answer in answers] == [1, 0, 2]


async def test_errors_arrive_as_they_were_raised(pool: Pool, rows: Rows, tmp_path: Path) -> None:
    with pytest.raises(ArtifactCorrupt, match="missing from the artifact store") as caught:
        await pool.predict(jobs.Predict("p", "0" * 64, ["0.png"]))
    assert caught.value.hint
    with pytest.raises(ArtifactCorrupt):
        await pool.load(jobs.Load("l", "../../etc/passwd"))
    with pytest.raises(InvalidOption, match="at least 1"):
        await build(pool, rows, tmp_path, epochs=0)
    with pytest.raises(FileUnavailable, match=r'"gone\.png"') as unavailable:
        await build(pool, [*rows, ("gone.png", "red")], tmp_path)
    assert unavailable.value.row == 40


async def test_a_canceled_build_stops_within_a_batch(pool: Pool, rows: Rows, artifact: str, tmp_path: Path) -> None:
    with building(rows, tmp_path, **SLOW) as request:
        async with aclosing(pool.build(request)) as reports:
            async for report in reports:
                if isinstance(report, jobs.Progress) and report.phase == "training":
                    break
        started = time.monotonic()
        # The next BUILD starts once the first has let go of the device.
        await build(pool, rows, tmp_path)
        assert time.monotonic() - started < 5


async def test_predict_is_served_between_training_steps(pool: Pool, rows: Rows, artifact: str, tmp_path: Path) -> None:
    async def train() -> None:
        with building(rows, tmp_path, **SLOW) as request:
            async for _ in pool.build(request):
                begun.set()

    begun = asyncio.Event()
    training = asyncio.create_task(train())
    await begun.wait()
    waits = []
    for number in range(10):
        started = time.monotonic()
        await pool.predict(jobs.Predict(f"p{number}", artifact, ["0.png"], bulk=False))
        waits.append(time.monotonic() - started)
    assert not training.done()
    assert sorted(waits)[5] < 1
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training


async def test_a_second_build_waits_and_says_so(pool: Pool, rows: Rows, tmp_path: Path) -> None:
    with building(rows, tmp_path, **SLOW) as first, building(rows, tmp_path) as second:
        async with aclosing(pool.build(first)) as running, aclosing(pool.build(second)) as waiting:
            await anext(running)
            report = await anext(waiting)
            assert isinstance(report, jobs.Progress)
            assert report.phase == "queued"


async def test_a_canceled_predict_leaves_the_worker_to_others(pool: Pool, rows: Rows, artifact: str) -> None:
    many = [image for image, _ in rows] * 100
    task = asyncio.create_task(pool.predict(jobs.Predict("many", artifact, many)))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    started = time.monotonic()
    await pool.predict(jobs.Predict("next", artifact, ["0.png"]))
    assert time.monotonic() - started < 1


async def test_interactive_overtakes_bulk(pool: Pool, rows: Rows, artifact: str) -> None:
    await pool.load(jobs.Load("load", artifact))
    request = jobs.Predict("bulk", artifact, [image for image, _ in rows] * 50)
    bulk = asyncio.create_task(pool.predict(request))
    await asyncio.sleep(0.1)
    await pool.predict(jobs.Predict("interactive", artifact, ["0.png"], bulk=False))
    assert not bulk.done()
    answer = await bulk
    assert len(answer.classes) == 2000


async def test_bulk_statements_take_turns(pool: Pool, rows: Rows, artifact: str) -> None:
    """One has four requests here at once, as a front sends them; another that comes later has its rows before the last of those."""
    await pool.load(jobs.Load("load", artifact))
    over: list[str] = []

    async def predict(job: str, images: list[jobs.Image]) -> None:
        await pool.predict(jobs.Predict(job, artifact, images))
        over.append(job)

    many = [image for image, _ in rows] * 8
    first = [asyncio.create_task(predict(f"first.{number}", many)) for number in range(4)]
    await asyncio.sleep(0.05)
    await predict("second.1", [image for image, _ in rows][:32])
    assert len(over) <= 2, over
    await asyncio.gather(*first)
    assert over[-1].startswith("first")


async def test_closing_fails_what_still_runs(closable: Pool, rows: Rows, artifact: str, tmp_path: Path) -> None:
    async def train() -> None:
        with building(rows, tmp_path, **SLOW) as request:
            async for _ in closable.build(request):
                begun.set()

    begun = asyncio.Event()
    training = asyncio.create_task(train())
    await begun.wait()
    await closable.close()
    with pytest.raises(Canceled):
        await training
    with pytest.raises(Canceled):
        await closable.predict(jobs.Predict("late", artifact, ["0.png"]))


async def test_a_damaged_artifact_is_found_by_the_next_statement(pool: Pool, rows: Rows, settings: WorkerSettings, tmp_path: Path) -> None:
    built = await build(pool, rows, tmp_path, seed=77, tune="full", pretrained=False)
    await pool.load(jobs.Load("before", built.artifact))
    digest = open_store(settings.artifacts_url).manifest(built.artifact).weights_sha256
    path = Path(settings.artifacts_url.removeprefix("file://")) / "weights" / f"{digest}.safetensors"
    path.write_bytes(b"damaged" + path.read_bytes()[7:])
    with pytest.raises(ArtifactCorrupt):
        await pool.load(jobs.Load("after", built.artifact))


async def test_a_model_that_is_there_waits_for_none_that_is_not(
    settings: WorkerSettings, artifact: str, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor for a file of gigabytes that somebody else uploads: each PREDICT begins with a Load."""
    going_on = threading.Event()
    monkeypatch.setattr(device_loop, "upload_model", lambda *_: going_on.wait(30))
    pool = InlinePool(settings)
    await pool.start()
    others = list[asyncio.Task[object]]()
    try:
        await pool.load(jobs.Load("first", artifact))
        loop = pool._device_loop
        assert loop is not None
        monkeypatch.setattr(loop._residency, "_load", lambda *_: going_on.wait(30))
        other = open_store(settings.artifacts_url).save(
            b"", architecture="A", classes=["a"], preprocessing={}, metrics={}, options={}, software={}
        )
        others.append(asyncio.create_task(pool.upload(jobs.Upload(job="upload", file="large.pth"))))
        others.append(asyncio.create_task(pool.load(jobs.Load("slow", other.id))))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            assert (await pool.load(jobs.Load("again", artifact))).classes == ["blue", "red"]
        assert not any(task.done() for task in others)
    finally:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        going_on.set()
        await pool.close()
