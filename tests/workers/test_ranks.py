"""A BUILD on several devices: on two ranks of the CPU, each a process, what it is on two GPUs."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load

from tests.workers.conftest import Rows, build, building
from tests.workers.test_local import alive, gone
from thanoproxy.catalog.artifacts import open_store
from thanoproxy.engine.dataset import Augment
from thanoproxy.engine.device import choose
from thanoproxy.engine.ranks import Leader, Share
from thanoproxy.errors import ConfigurationError
from thanoproxy.workers import jobs
from thanoproxy.workers.inline import InlinePool
from thanoproxy.workers.local import LocalPool
from thanoproxy.workers.ranks import others
from thanoproxy.workers.settings import WorkerSettings

FULL: dict[str, object] = {"tune": "full", "batch_size": 9, "learning_rate": 2e-3, "epochs": 2, "validation_split": 0.1}
LONG: dict[str, object] = {"tune": "full", "batch_size": 8, "epochs": 1000}


@pytest.fixture
def together(settings: WorkerSettings) -> WorkerSettings:
    return msgspec.structs.replace(settings, build_devices=("cpu", "cpu"))


@pytest.fixture
async def pair(together: WorkerSettings) -> AsyncIterator[LocalPool]:
    pool = LocalPool(together)
    await pool.start()
    yield pool
    await pool.close()


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Trainings begin when all ranks are there, for which they do not wait else; how many there were at each batch."""
    sizes: list[int] = []
    shares = Leader.shares

    def wait(self: Leader, plan: Sequence[Sequence[int]], augment: Augment | None) -> Generator[Share, None, None]:
        while not self.is_complete:
            time.sleep(0.05)
        for share in shares(self, plan, augment):
            sizes.append(share.places.step)
            yield share

    monkeypatch.setattr(Leader, "shares", wait)
    return sizes


def ranks_of(pid: int) -> list[int]:
    """The rank processes that process `pid` has started."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
                command = Path(f"/proc/{entry}/cmdline").read_text()
            except OSError:
                continue
            if parent == pid and "thanoproxy.workers.rank_process" in command:
                found.append(int(entry))
    return found


def state_of(built: jobs.Built, settings: WorkerSettings) -> torch.Tensor:
    """All weights in a row."""
    store = open_store(settings.artifacts_url)
    tensors = load(store.weights(built.artifact, store.manifest(built.artifact)))
    return torch.cat([tensors[name].flatten().double() for name in sorted(tensors)])


async def build_inline(settings: WorkerSettings, rows: Rows, folder: Path, **options: object) -> tuple[jobs.Built, list[jobs.Remark]]:
    pool, remarks, built = InlinePool(settings), [], None
    await pool.start()
    try:
        with building(rows, folder, **options) as request:
            async for report in pool.build(request):
                if isinstance(report, jobs.Remark):
                    remarks.append(report)
                elif isinstance(report, jobs.Built):
                    built = report
    finally:
        await pool.close()
    assert built is not None
    return built, remarks


async def test_two_ranks_learn_what_one_device_does(
    settings: WorkerSettings, together: WorkerSettings, complete: list[int], rows: Rows, tmp_path: Path
) -> None:
    """With what dropout drops, random crops, class weights, and a batch that cannot be divided equally; but for rounding."""
    options = {**FULL, "class_weights": (1.0, 3.0)}
    one, silence = await build_inline(settings, rows, tmp_path, **options)
    two, [remark] = await build_inline(together, rows, tmp_path, **options)
    other, _ = await build_inline(settings, rows, tmp_path, **options, seed=1)
    assert silence == []
    assert (remark.severity, remark.message) == ("NOTICE", "training goes on on 2 devices")
    assert remark.detail == "They are cpu, cpu."
    assert complete == [2] * 8
    states = [state_of(built, settings) for built in (one, two, other)]
    apart = float((states[0] - states[1]).norm() / (states[0] - states[2]).norm())
    assert apart < 0.01, "of what another seed makes"
    for mine, theirs in zip(one.log, two.log, strict=True):
        assert theirs.loss == pytest.approx(mine.loss, rel=1e-3)
        assert theirs.accuracy == mine.accuracy
        assert theirs.learning_rate == mine.learning_rate
    pool = InlinePool(settings)
    await pool.start()
    found = [await pool.predict(jobs.Predict("p", built.artifact, [image for image, _ in rows])) for built in (one, two)]
    await pool.close()
    assert found[0].classes == found[1].classes
    assert ranks_of(os.getpid()) == []
