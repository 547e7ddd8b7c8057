"""Pools of both kinds on pictures, weights and a store of the tests' own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import pytest_asyncio
import torch
from safetensors.torch import save_file

from tests.images.pictures import write_red_and_blue
from thanoproxy.models.mobilenet import V2
from thanoproxy.workers import jobs
from thanoproxy.workers.attached import AttachedPool
from thanoproxy.workers.inline import InlinePool
from thanoproxy.workers.local import LocalPool
from thanoproxy.workers.pool import Pool
from thanoproxy.workers.settings import WorkerSettings
from thanoproxy.workers.spool import SpoolWriter

_numbers = itertools.count(1)
Rows = list[tuple[jobs.Image, str]]
Startable = TypeVar("Startable", InlinePool, LocalPool)


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> WorkerSettings:
    """One CPU worker; 40 red and blue pictures; weights for MobileNet_V2 that are random."""
    folder = tmp_path_factory.mktemp("workers")
    for name in ("images", "weights"):
        (folder / name).mkdir()
    write_red_and_blue(folder / "images", 40)
    torch.manual_seed(3)
    save_file(V2.make(1000, pretrained=True).state_dict(), folder / "weights" / "mobilenet_v2.safetensors")
    return WorkerSettings(
        artifacts_url=f"file://{folder}/models",
        image_roots=(str(folder / "images"),),
        weights_roots=(str(folder / "weights"),),
        devices=("cpu",),
    )


@pytest.fixture(scope="session")
def rows() -> Rows:
    return [(f"{number}.png", ("red", "blue")[number % 2]) for number in range(40)]


@asynccontextmanager
async def attached(local: LocalPool, number: int = 0) -> AsyncIterator[AttachedPool]:
    """A started pool on the workers of `local`, told of their comings and goings."""
    pool = AttachedPool(local.places, local._settings, number)
    local.on_change = lambda: pool.follow(local.places)
    await pool.start()
    yield pool
    await pool.close()


@asynccontextmanager
async def started(pool: Startable) -> AsyncIterator[Startable]:
    await pool.start()
    yield pool
    await pool.close()


@pytest.fixture
async def local(settings: WorkerSettings) -> AsyncIterator[LocalPool]:
    """One whose worker the test may kill."""
    async with started(LocalPool(settings)) as pool:
        yield pool


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting(settings: WorkerSettings) -> AsyncIterator[LocalPool]:
    """One for a whole module, see `shared`: to start a worker takes seconds."""
    async with started(LocalPool(settings)) as pool:
        yield pool


@pytest_asyncio.fixture(loop_scope="module")
async def shared(lasting: LocalPool) -> AsyncIterator[LocalPool]:
    """One whose worker other tests of the module have as well: it has nothing to do at the beginning, and lives at the end."""
    pids = lasting.pids
    for _ in range(1000):
        if not any(line.builds or line.rows_under_way for line in lasting._lines()):
            break
        await asyncio.sleep(0.01)
    yield lasting
    assert lasting.pids == pids, "the next test has the same worker"


@contextmanager
def building(rows: Rows, folder: Path, **options: object) -> Iterator[jobs.Build]:
    """A request to build MobileNet_V2 at 32 pixels, whose spool lasts as long as the block."""
    plain: dict[str, object] = {"input_size": 32, "epochs": 1, "tune": "head", **options}
    with SpoolWriter(str(folder)) as spool:
        for image, label in rows:
            spool.add(image, label)
        spool.finish()
        chosen = jobs.TrainOptions(**plain)  # type: ignore[arg-type]
        yield jobs.Build(f"build-{next(_numbers)}", "MobileNet_V2", spool.path, chosen, checkpoint=spool.checkpoint)


async def build(pool: Pool, rows: Rows, folder: Path, **options: object) -> jobs.Built:
    """Build to the end."""
    with building(rows, folder, **options) as request:
        reports = [report async for report in pool.build(request)]
    built = reports[-1]
    assert isinstance(built, jobs.Built)
    return built


@pytest.fixture(scope="session")
def artifact(settings: WorkerSettings, rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that tells red from blue."""

    async def make() -> str:
        pool = InlinePool(settings)
        await pool.start()
        try:
            return (await build(pool, rows, tmp_path_factory.mktemp("spools"))).artifact
        finally:
            await pool.close()

    # On a loop of its own: the tests' loop may be running.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, make()).result()
