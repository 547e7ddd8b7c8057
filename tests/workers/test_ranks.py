"""A BUILD on several devices: on two ranks of the CPU, each a process, what it is on two GPUs."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
import torch
from safetensors.torch import load

from tests.workers.conftest import Rows, building, started
from tests.workers.test_decoding import children
from tests.workers.test_local import gone
from thanoproxy.catalog.artifacts import open_store
from thanoproxy.engine import build as engine_build
from thanoproxy.engine import group, ranks
from thanoproxy.engine.dataset import Augment
from thanoproxy.engine.device import choose
from thanoproxy.engine.ranks import Leader
from thanoproxy.engine.shares import Share
from thanoproxy.errors import ConfigurationError
from thanoproxy.models.architecture import Architecture, Recipe
from thanoproxy.workers import jobs
from thanoproxy.workers import ranks as processes
from thanoproxy.workers.inline import InlinePool
from thanoproxy.workers.local import LocalPool
from thanoproxy.workers.settings import WorkerSettings
from thanoproxy.workers.spawning import environment

# With random crops, classes that weigh differently, and batches that two cannot divide equally.
FULL: dict[str, object] = {
    "tune": "full",
    "batch_size": 7,
    "learning_rate": 2e-3,
    "epochs": 1,
    "validation_split": 0.1,
    "class_weights": (1.0, 3.0),
}


@pytest.fixture(scope="session")
def together(settings: WorkerSettings) -> WorkerSettings:
    return msgspec.structs.replace(settings, build_devices=("cpu", "cpu"))


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Trainings begin when all ranks are there, for which they do not wait else; how many there were at each batch."""
    sizes: list[int] = []
    shares = Leader.shares

    def wait(self: Leader, plan: Sequence[Sequence[int]], augment: Augment | None) -> Generator[Share, None, None]:
        while not self.all_ready():
            time.sleep(0.05)
        for share in shares(self, plan, augment):
            sizes.append(share.places.step)
            yield share

    monkeypatch.setattr(Leader, "shares", wait)
    return sizes


@pytest.fixture(autouse=True, scope="module")
def dropout() -> Iterator[None]:
    """Something is dropped, which MobileNet_V2's own recipe does not do."""

    def recipe(architecture: Architecture, options: jobs.TrainOptions) -> Recipe:
        return replace(own(architecture, options), drop_path=0.4)

    own = engine_build._recipe
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_build, "_recipe", recipe)
        yield


@pytest.fixture(scope="module")
def alone(dropout: None, settings: WorkerSettings, rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> tuple[jobs.Built, jobs.Built]:
    """What one device makes of it, and what it would with another seed."""
    folder = tmp_path_factory.mktemp("alone")
    with ThreadPoolExecutor(1) as thread:
        made = [thread.submit(asyncio.run, build(settings, rows, folder, seed=seed)).result() for seed in (0, 1)]
    assert [remarks for _, remarks in made] == [[], []]
    return made[0][0], made[1][0]


async def build(settings: WorkerSettings, rows: Rows, folder: Path, **options: object) -> tuple[jobs.Built, list[jobs.Remark]]:
    pool, reports = InlinePool(settings), list[object]()
    await pool.start()
    try:
        with building(rows, folder, **{**FULL, **options}) as request:
            reports += [report async for report in pool.build(request)]
    finally:
        await pool.close()
    built = reports[-1]
    assert isinstance(built, jobs.Built)
    return built, [report for report in reports if isinstance(report, jobs.Remark)]


def ranks_of(pid: int) -> list[int]:
    return [child for child in children(pid) if b"thanoproxy.workers.rank_process" in Path(f"/proc/{child}/cmdline").read_bytes()]


def weights_of(built: jobs.Built, settings: WorkerSettings) -> torch.Tensor:
    """All of them in a row."""
    store = open_store(settings.artifacts_url)
    tensors = load(store.weights(built.artifact, store.manifest(built.artifact)))
    return torch.cat([tensors[name].flatten().double() for name in sorted(tensors)])


async def assert_equal_but_for_rounding(
    built: jobs.Built, alone: tuple[jobs.Built, jobs.Built], settings: WorkerSettings, rows: Rows
) -> None:
    one, other, this = (weights_of(each, settings) for each in (*alone, built))
    assert float((this - one).norm() / (other - one).norm()) < 1e-3, "a thousandth of what another seed makes"
    for mine, theirs in zip(alone[0].log, built.log, strict=True):
        assert theirs.loss == pytest.approx(mine.loss, rel=1e-3)
        assert (theirs.accuracy, theirs.learning_rate) == (mine.accuracy, mine.learning_rate)
    pool = InlinePool(settings)
    await pool.start()
    images = [image for image, _ in rows]
    found = [await pool.predict(jobs.Predict("p", each.artifact, images)) for each in (alone[0], built)]
    await pool.close()
    assert found[0].classes == found[1].classes


async def test_two_ranks_learn_what_one_device_does(
    together: WorkerSettings, alone: tuple[jobs.Built, jobs.Built], sizes: list[int], rows: Rows, tmp_path: Path
) -> None:
    built, [remark] = await build(together, rows, tmp_path)
    assert (remark.severity, remark.message, remark.detail) == ("NOTICE", "training goes on on 2 devices", "They are cpu, cpu.")
    assert sizes == [2] * 6
    await assert_equal_but_for_rounding(built, alone, together, rows)
    assert ranks_of(os.getpid()) == []


async def test_from_scratch_too_where_each_normalises_by_its_own_rows(
    together: WorkerSettings, sizes: list[int], rows: Rows, tmp_path: Path
) -> None:
    built, _ = await build(together, rows, tmp_path, pretrained=False, epochs=3, augment=False)
    assert sizes == [2] * 18
    assert built.log[-1].loss < built.log[0].loss


@pytest.mark.parametrize(("by", "reason"), [(signal.SIGKILL, "ended by signal 9"), (signal.SIGSTOP, "took too long|nothing came|imed out")])
async def test_a_rank_that_dies_or_hangs_costs_a_step_which_the_leader_does_again(
    together: WorkerSettings,
    alone: tuple[jobs.Built, jobs.Built],
    sizes: list[int],
    rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    by: signal.Signals,
    reason: str,
) -> None:
    monkeypatch.setattr(ranks, "PATIENCE", 5.0)
    monkeypatch.setattr(group, "SECONDS", 10.0)

    def lose() -> None:
        while len(sizes) < 3:
            time.sleep(0.01)
        [rank] = ranks_of(os.getpid())
        os.kill(rank, by)

    losing = asyncio.create_task(asyncio.to_thread(lose))
    built, [joined, lost] = await build(together, rows, tmp_path)
    await losing
    assert joined.message == "training goes on on 2 devices"
    assert "lost; training goes on" in lost.message
    assert lost.detail is not None
    assert re.search(reason, lost.detail)
    assert set(sizes[:3]) == {2}
    assert sizes[-1] == 1
    assert len(sizes) == 7, "one batch came twice"
    await assert_equal_but_for_rounding(built, alone, together, rows)
    assert ranks_of(os.getpid()) == []


async def test_where_one_is_lost_while_nobody_is_in_a_collective_the_others_go_on_together(
    settings: WorkerSettings,
    alone: tuple[jobs.Built, jobs.Built],
    sizes: list[int],
    rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait_for = Leader._all_computed

    def lose(self: Leader) -> Generator[None, None, bool]:
        # Not before: the one that is killed may still be handing the network on to the other.
        complete = yield from wait_for(self)
        if len(sizes) == 2:
            rank, _ = ranks_of(os.getpid())
            os.kill(rank, signal.SIGKILL)
            os.waitid(os.P_PID, rank, os.WEXITED | os.WNOWAIT)  # all of its threads, and the leader will find out
        return complete

    monkeypatch.setattr(Leader, "_all_computed", lose)
    three = msgspec.structs.replace(settings, build_devices=("cpu", "cpu", "cpu"))
    built, remarks = await build(three, rows, tmp_path)
    assert [remark.message for remark in remarks] == [
        "training goes on on 3 devices",
        "the process that was to train along on cpu is lost; training goes on without it",
        "training goes on on 2 devices",
    ]
    assert remarks[1].detail == "It was ended by signal 9."
    assert sizes == [3, 3, 2, 2, 2, 2, 2]
    await assert_equal_but_for_rounding(built, alone, three, rows)
    assert ranks_of(os.getpid()) == []


async def test_one_that_cannot_be_started_is_told_and_done_without(
    together: WorkerSettings, sizes: list[int], rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "environment", lambda: {**environment(), "PYTHONHOME": "/nowhere"})
    _, [remark] = await build(together, rows, tmp_path)
    assert remark.message == "the process that was to train along on cpu is lost; training goes on without it"
    assert remark.detail == "Its exit status was 1."
    assert set(sizes) == {1}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def leading(together: WorkerSettings) -> AsyncIterator[LocalPool]:
    async with started(LocalPool(together)) as pool:
        yield pool


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("by", ["a cancel", "the death of its worker"])
async def test_a_rank_ends_with_its_build(leading: LocalPool, rows: Rows, tmp_path: Path, by: str) -> None:
    await leading._pick()  # another test may have killed the one before
    [worker] = leading.pids
    with building(rows, tmp_path, tune="full", batch_size=8, epochs=10000) as request:
        async with aclosing(leading.build(request)) as reports:
            async for report in reports:
                if isinstance(report, jobs.Remark):
                    assert report.message == "training goes on on 2 devices"
                    break
            [rank] = ranks_of(worker)
            if by != "a cancel":
                os.kill(worker, signal.SIGKILL)
                assert await gone(rank)
    assert await gone(rank)
    assert os.listdir(tmp_path) == []


def test_who_trains_besides_the_worker() -> None:
    device = choose("cpu")
    assert processes.others(["own"], device) == processes.others(["all"], device) == processes.others(["cpu"], device) == []
    assert processes.others(["cpu", "cpu", "cpu"], device) == ["cpu", "cpu"]
    assert processes.others(["cuda:0", "cuda:1"], device) == ["cuda:0", "cuda:1"]


async def test_a_device_that_is_not_there_is_an_error_at_the_start(settings: WorkerSettings) -> None:
    pool = InlinePool(msgspec.structs.replace(settings, build_devices=("cuda:99",)))
    with pytest.raises(ConfigurationError, match=r"workers\.build_devices: there is no device 'cuda:99'"):
        await pool.start()
