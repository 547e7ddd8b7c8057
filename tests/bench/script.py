"""The plain script (`tests.bench.plain`) as the benchmarks see it: a process that is told what to do, at its best settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from thanoproxy.catalog.artifacts import Manifest

__all__ = ["PlainScript", "Setting", "plain_script", "quickest", "settings"]

Setting = tuple[int, int, int]
"""Images in a batch, processes of the DataLoader, threads that compute."""

# What a good engineer finds out about glibc: freed activations are kept and not mapped anew for each layer (mallopt(3)).  It makes
# MobileNet_V2 several times as fast on a CPU.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1)}


class PlainScript:
    """A running script."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def order(self, do: str, **rest: object) -> dict[str, Any]:
        assert self._process.stdin is not None, "a pipe"
        assert self._process.stdout is not None, "a pipe"
        self._process.stdin.write(json.dumps({"do": do, **rest}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the plain script ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def open(self, artifacts: Path, artifact: str) -> None:
        """Take a model of ours: the same weights, the same preprocessing."""
        manifest = msgspec.json.decode((artifacts / "manifests" / f"{artifact}.json").read_bytes(), type=Manifest)
        weights = artifacts / "weights" / f"{manifest.weights_sha256}.safetensors"
        self.order(
            "open", architecture=manifest.architecture, weights=str(weights), classes=manifest.classes, pixels=manifest.preprocessing
        )

    def best(self, work: Iterable[str], choices: Sequence[Setting]) -> Setting:
        """The setting with which it predicts these paths soonest."""
        paths = list(work)
        return quickest(len(paths), choices, lambda setting: self.order("predict", paths=paths, setting=setting)["seconds"])


def quickest(images: int, choices: Sequence[Setting], seconds: Callable[[Setting], float]) -> Setting:
    """The setting that takes the fewest `seconds` for so many images."""
    taken = dict.fromkeys(choices, float("inf"))
    for setting in [*choices, *choices]:
        seconds(setting)  # the first time starts processes
        taken[setting] = min(taken[setting], seconds(setting))
    for setting, least in taken.items():
        print(f"  script with batch {setting[0]}, {setting[1]} workers, {setting[2]} threads: {images / least:.1f} images/s")
    return min(taken, key=taken.__getitem__)


def settings(cores: int, cuda: bool) -> list[Setting]:
    """What an engineer tries: batch sizes; workers that decode beside the threads that compute, or none."""
    if cuda:
        return [(batch, workers, cores) for batch in (128, 256, 512) for workers in (cores // 2, cores)]
    return [(batch, workers, cores) for batch in (16, 64) for workers in (0, 1, cores)]


@contextmanager
def plain_script() -> Iterator[PlainScript]:
    command = [sys.executable, "-m", "tests.bench.plain"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **ALLOCATOR}
    ) as process:
        try:
            yield PlainScript(process)
        finally:
            assert process.stdin is not None, "a pipe"
            process.stdin.close()  # it ends with its orders
