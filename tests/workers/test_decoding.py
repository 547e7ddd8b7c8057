"""Images decoded in processes of their own: the same pixels, and a process that dies takes nothing with it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import torch

from tests.images.pictures import blocks, encoded
from tests.workers.conftest import Rows, building
from tests.workers.test_local import gone
from thanoproxy.engine.device import choose
from thanoproxy.engine.pixels import read_cropped, read_scaled
from thanoproxy.errors import InvalidImage, ThanoError
from thanoproxy.images import Sources, open_sources
from thanoproxy.images.loader import LoaderThreads, finish
from thanoproxy.models.preprocessing import Preprocessing
from thanoproxy.workers import jobs
from thanoproxy.workers.decoding import DecodeProcess, loaders_for
from thanoproxy.workers.inline import InlinePool
from thanoproxy.workers.local import LocalPool
from thanoproxy.workers.settings import WorkerSettings

DEADLY = Path(__file__).parent / "deadly"
SMALL = Preprocessing(resize=36, crop=32)


@pytest.fixture(scope="module")
def apart(settings: WorkerSettings) -> Iterator[WorkerSettings]:
    """Settings of workers that decode in two processes, which images can kill."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{DEADLY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        yield msgspec.structs.replace(settings, decoders="processes", loader_threads=2)


@pytest.fixture(scope="module")
def sources(settings: WorkerSettings) -> Sources:
    return open_sources(settings.image_roots)


@pytest.fixture(scope="module")
def process(apart: WorkerSettings) -> Iterator[DecodeProcess]:
    process = DecodeProcess(apart)
    yield process
    process.close()


@pytest.fixture(scope="module")
def threads(apart: WorkerSettings) -> Iterator[LoaderThreads]:
    threads = loaders_for(apart, choose("cpu"), lambda: None)
    yield threads
    threads.close()


def children(pid: int) -> list[int]:
    found = set[int]()
    for task in os.listdir(f"/proc/{pid}/task"):
        with (
            suppress(FileNotFoundError, ProcessLookupError),
            open(f"/proc/{pid}/task/{task}/children") as file,
        ):  # a thread may end meanwhile
            found.update(map(int, file.read().split()))
    return sorted(found)


def decoders(pid: int) -> list[int]:
    return [child for child in children(pid) if b"thanoproxy.workers.decoder" in Path(f"/proc/{child}/cmdline").read_bytes()]


IMAGES = {
    "a path": "0.png",
    "JPEG": encoded(blocks(300, 200), "JPEG"),
    "long": encoded(blocks(900, 20), "PNG"),
    "small": encoded(blocks(3, 3), "WEBP"),
}


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("preprocessing", [SMALL, Preprocessing(resize=236, crop=224, color="GRAY")], ids=lambda one: str(one.crop))
def test_the_pixels_are_the_same(threads: LoaderThreads, sources: Sources, image: str | bytes, preprocessing: Preprocessing) -> None:
    cropped = threads.submit(lambda: read_cropped(sources, image, 0, preprocessing)).result()
    assert torch.equal(cropped, finish(read_cropped(sources, image, 0, preprocessing)))
    data = sources.read(image)
    scaled = threads.submit(lambda: read_scaled(data, image, 0, preprocessing)).result()
    assert torch.equal(scaled, read_scaled(data, image, 0, preprocessing))


def test_what_was_given_stays_as_it_is_when_the_next_is_decoded(process: DecodeProcess) -> None:
    first = process.cropped("0.png", 0, SMALL)
    kept = first.clone()
    assert not torch.equal(process.cropped("1.png", 0, SMALL), kept)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("image", ["gone.png", "../models", b"no image", encoded(blocks(), "PNG")[:90], "s3://x/y"])
def test_errors_are_the_same(threads: LoaderThreads, sources: Sources, image: str | bytes) -> None:
    with pytest.raises(ThanoError) as here:
        finish(read_cropped(sources, image, 7, SMALL))
    with pytest.raises(ThanoError) as there:
        threads.submit(lambda: read_cropped(sources, image, 7, SMALL)).result()
    assert there.value.to_fields() == here.value.to_fields()
    if isinstance(image, bytes):
        with pytest.raises(ThanoError) as there:
            threads.submit(lambda: read_scaled(image, image, 7, SMALL)).result()
        assert there.value.to_fields() == here.value.to_fields()


def test_an_image_that_kills_two_processes_is_to_blame(process: DecodeProcess) -> None:
    with pytest.raises(InvalidImage, match='image "deadly:1": processes that decode it die of it') as caught:
        process.cropped("deadly:1", 3, SMALL)
    assert (caught.value.detail, caught.value.row) == ("It was ended by signal 9.", 3)
    assert process.cropped("0.png", 0, SMALL).shape == (3, 32, 32)


def test_a_killed_process_is_replaced_and_asked_again(process: DecodeProcess, sources: Sources) -> None:
    wanted = process.cropped("0.png", 0, SMALL)
    pid = process.pid
    assert pid in decoders(os.getpid())
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert torch.equal(process.cropped("0.png", 0, SMALL), wanted)
    assert process.pid != pid


async def test_rows_are_predicted_though_processes_are_killed(apart: WorkerSettings, rows: Rows, artifact: str, tmp_path: Path) -> None:
    before = set(decoders(os.getpid()))
    pool = InlinePool(apart)
    await pool.start()
    try:
        images = [image for image, _ in rows] * 20
        images[100] = "deadly:1"
        task = asyncio.create_task(pool.predict(jobs.Predict("p", artifact, images)))
        for _ in range(3):
            await asyncio.sleep(0.3)
            for pid in set(decoders(os.getpid())) - before:
                os.kill(pid, signal.SIGKILL)
                break
        answer = await task
        assert list(answer.failures) == [100]
        assert answer.failures[100].sqlstate == "22P03"
        found = [classes and ("blue", "red")[classes[0]] for classes in answer.classes]
        assert [one for at, one in enumerate(found) if at != 100] == [label for at, (_, label) in enumerate(rows * 20) if at != 100]

        with building(rows, tmp_path, tune="full", batch_size=8) as request:
            built = [report async for report in pool.build(request)][-1]
    finally:
        await pool.close()
    assert set(decoders(os.getpid())) <= before, "they end with their worker"
    threads = InlinePool(msgspec.structs.replace(apart, decoders="threads"))
    await threads.start()
    try:
        with building(rows, tmp_path, tune="full", batch_size=8) as request:
            again = [report async for report in threads.build(request)][-1]
    finally:
        await threads.close()
    assert isinstance(built, jobs.Built)
    assert isinstance(again, jobs.Built)
    assert built.metrics["validation_loss"] == again.metrics["validation_loss"], "a model does not depend on where its images were decoded"


def shared_memory() -> set[str]:
    """The names in it, but for those of PostgreSQLs, which other tests may start."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("PostgreSQL.")}


async def test_nothing_is_left_of_them_when_their_worker_is_killed(apart: WorkerSettings, rows: Rows, artifact: str) -> None:
    shared = shared_memory()
    pool = LocalPool(apart)
    await pool.start()
    try:
        request = jobs.Predict("p", artifact, [image for image, _ in rows])
        wanted = await pool.predict(request)
        [worker] = pool.pids
        theirs = decoders(worker)
        assert len(theirs) == 2
        os.kill(worker, signal.SIGKILL)
        assert (await pool.predict(request)).classes == wanted.classes
        assert all([await gone(pid) for pid in theirs])
    finally:
        await pool.close()
    assert shared_memory() <= shared


def test_by_default_processes_decode_only_beside_a_gpu(settings: WorkerSettings) -> None:
    before = decoders(os.getpid())
    threads = loaders_for(settings, choose("cpu"), lambda: None)
    assert decoders(os.getpid()) == before
    threads.close()
