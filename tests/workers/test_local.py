"""Worker processes: watched, replaced when they die, and gone when the proxy is."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from tests.workers.conftest import Rows, build, building
from tests.workers.test_pools import SLOW
from thanoproxy.catalog.artifacts import open_store
from thanoproxy.errors import ConfigurationError, WorkerFailure
from thanoproxy.workers import bisect, crew, jobs, seat
from thanoproxy.workers.local import LocalPool
from thanoproxy.workers.settings import WorkerSettings


def alive(pid: int) -> bool:
    with suppress(OSError):
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return False


def exists(path: str | Path) -> bool:
    return os.path.exists(path)


async def gone(pid: int, within: float = 10) -> bool:
    for _ in range(int(within / 0.05)):
        if not alive(pid):
            return True
        await asyncio.sleep(0.05)
    return False


async def test_a_predict_whose_worker_is_killed_is_answered_by_the_next(local: LocalPool, rows: Rows, artifact: str) -> None:
    await local.load(jobs.Load("load", artifact))
    [pid] = local.pids
    request = jobs.Predict("p", artifact, [image for image, _ in rows] * 30)
    task = asyncio.create_task(local.predict(request))
    await asyncio.sleep(0.3)
    os.kill(pid, signal.SIGKILL)
    answer = await task
    assert len(answer.classes) == 1200
    assert local.pids != [pid]


async def test_a_build_whose_worker_is_killed_is_resumed_and_ends_with_the_same_weights(
    local: LocalPool, settings: WorkerSettings, rows: Rows, tmp_path: Path
) -> None:
    options = {"pretrained": False, "tune": "full", "epochs": 6, "batch_size": 8, "seed": 4}
    whole = await build(local, rows, tmp_path, **options)
    remarks, epochs, built = [], [], None
    with building(rows, tmp_path, **options) as request:
        async for report in local.build(request):
            if isinstance(report, jobs.Remark):
                remarks.append(report)
            elif isinstance(report, jobs.Built):
                built = report
            elif report.epoch is not None:
                epochs.append(report.epoch.epoch)
                if epochs == [1, 2]:
                    os.kill(local.pids[0], signal.SIGKILL)
    assert built is not None
    [remark] = remarks
    assert remark.severity == "WARNING"
    assert "resumes the training from its last checkpoint" in remark.message
    assert remark.detail == "It was ended by signal 9."
    assert epochs[:3] == [1, 2, 3] or epochs[:4] == [1, 2, 2, 3], "from a checkpoint, not from the beginning"
    manifests = [open_store(settings.artifacts_url).manifest(one.artifact) for one in (whole, built)]
    assert manifests[0].weights_sha256 == manifests[1].weights_sha256
    assert [(entry.epoch, entry.loss) for entry in built.log] == [(entry.epoch, entry.loss) for entry in whole.log]
    assert os.listdir(tmp_path) == [], "neither rows nor checkpoints are left"


async def test_a_build_that_kills_every_worker_fails_and_the_pool_goes_on(local: LocalPool, rows: Rows, tmp_path: Path) -> None:
    killed: set[int] = set()

    async def build_and_kill() -> None:
        with building(rows, tmp_path, **SLOW) as request:
            async for report in local.build(request):
                if isinstance(report, jobs.Progress) and report.phase == "training" and not killed.issuperset(local.pids):
                    killed.update(local.pids)
                    os.kill(local.pids[0], signal.SIGKILL)

    with pytest.raises(WorkerFailure, match="the worker process died") as caught:
        await build_and_kill()
    assert len(killed) == 1 + crew.RESUMES
    assert caught.value.detail == "It was ended by signal 9."
    assert os.listdir(tmp_path) == []
    assert (await build(local, rows, tmp_path)).classes == ["blue", "red"]


async def test_a_worker_killed_again_and_again_is_a_clean_error(
    local: LocalPool, rows: Rows, artifact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those apart as well, where it is looked for an image that is to blame."""
    monkeypatch.setattr(bisect, "DEATHS", 1)

    def workers() -> set[int]:
        cell = local._quarantine._cell
        return {*local.pids, *([] if cell is None else [cell.child.pid])}

    async def kill() -> None:
        seen: set[int] = set()
        while True:
            for pid in workers() - seen:
                os.kill(pid, signal.SIGSTOP)  # so that it has not answered when it is killed
                asyncio.get_running_loop().call_later(0.2, os.kill, pid, signal.SIGKILL)
                seen.add(pid)
            await asyncio.sleep(0.01)

    killing = asyncio.create_task(kill())
    await asyncio.sleep(0)
    with pytest.raises(WorkerFailure):
        await local.predict(jobs.Predict("p", artifact, [image for image, _ in rows]))
    killing.cancel()
    await asyncio.sleep(0.2)


async def test_closing_ends_the_processes_and_removes_the_folder(settings: WorkerSettings) -> None:
    pool = LocalPool(settings)
    await pool.start()
    [pid] = pool.pids
    folder = Path(pool._folder)
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert stat.S_ISSOCK(os.stat(folder / "cpu-1").st_mode)
    await pool.close()
    assert await gone(pid)
    assert not exists(folder)


async def test_neither_ctrl_c_nor_a_service_managers_sigterm_ends_a_worker(local: LocalPool, artifact: str) -> None:
    [pid] = local.pids
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    assert len((await local.predict(jobs.Predict("p", artifact, ["0.png"]))).classes) == 1
    assert local.pids == [pid]


PARENT = """
import asyncio, sys, msgspec
from thanoproxy.workers.local import LocalPool
from thanoproxy.workers.settings import WorkerSettings

async def main():
    pool = LocalPool(msgspec.json.decode(sys.argv[1], type=WorkerSettings))
    await pool.start()
    print(pool.pids[0], pool._folder, flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


async def test_a_killed_proxy_leaves_neither_process_nor_folder(settings: WorkerSettings) -> None:
    plain = msgspec.json.encode(settings).decode()
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, plain, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid, folder = (await parent.stdout.readline()).decode().split()
    assert alive(int(pid))
    parent.kill()
    await parent.wait()
    assert await gone(int(pid))
    assert not exists(folder)


@pytest.mark.parametrize(
    ("changes", "words"), [({"devices": ("cuda:99",)}, "no device 'cuda:99'"), ({"artifacts_url": "ftp://x"}, "not known")]
)
async def test_settings_that_cannot_work_are_told_at_the_start(settings: WorkerSettings, changes: dict[str, object], words: str) -> None:
    pool = LocalPool(msgspec.structs.replace(settings, **changes))
    with pytest.raises(ConfigurationError, match=words):
        await pool.start()
    assert pool.pids == []
    assert not exists(pool._folder)


async def test_a_worker_that_can_no_longer_be_started_is_said_so(local: LocalPool, artifact: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "BACKOFF", (0.0,))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    os.kill(local.pids[0], signal.SIGKILL)
    with pytest.raises(WorkerFailure, match="no worker can be started"):
        await local.predict(jobs.Predict("p", artifact, ["0.png"]))


async def test_two_workers_share_the_work(settings: WorkerSettings, rows: Rows, artifact: str) -> None:
    pool = LocalPool(msgspec.structs.replace(settings, devices=("cpu", "cpu"), threads=1))
    await pool.start()
    try:
        assert len(pool.pids) == 2
        answers = await asyncio.gather(*(pool.predict(jobs.Predict(f"p{n}", artifact, ["0.png", "1.png"])) for n in range(20)))
        assert {tuple(answer.classes) for answer in answers} == {((1,), (0,))}
    finally:
        await pool.close()


@pytest.mark.parametrize("name", ["jobs", "pool", "local", "inline", "spool", "schedule", "settings", "process"])
def test_a_front_imports_no_torch(name: str) -> None:
    code = f"import sys, thanoproxy.workers.{name}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
