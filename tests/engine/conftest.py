"""A device, loader threads and a workshop on files of the test's own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from tests.images.pictures import write_red_and_blue
from thanoproxy.catalog.artifacts import open_store
from thanoproxy.engine.build import Workshop, build
from thanoproxy.engine.device import Device, choose
from thanoproxy.images import open_sources
from thanoproxy.images.loader import LoaderThreads
from thanoproxy.models import convnext
from thanoproxy.models.mobilenet import V2
from thanoproxy.models.weights import WeightsFinder
from thanoproxy.workers import jobs
from thanoproxy.workers.spool import SpoolWriter

Rows: TypeAlias = list[tuple[jobs.Image, str]]
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def device() -> Device:
    return choose("cpu")


@pytest.fixture(scope="session")
def threads() -> Iterator[LoaderThreads]:
    loader = LoaderThreads(2, lambda: torch.set_num_threads(1))
    choose("cpu").use_threads()
    yield loader
    loader.close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rows]:
    """A folder with 40 red and blue pictures, and their rows."""
    folder = tmp_path_factory.mktemp("pictures")
    return folder, list(write_red_and_blue(folder, 40))


@pytest.fixture(scope="session")
def weights_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights for MobileNet_V2 that look pretrained, and are random: good enough to tell red from blue."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(3)
    network = V2.make(1000, pretrained=True)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network(torch.randn(64, 3, 1, 1).expand(-1, -1, 32, 32))  # statistics that suit weights that tell colours apart
    save_file(network.state_dict(), folder / "mobilenet_v2.safetensors")
    return folder


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """ConvNeXt_Tiny is as deep as ever, and has a quarter of its channels: to step, save and hash 28 million weights takes seconds."""
    stages = [CNBlockConfig(24, 48, 3), CNBlockConfig(48, 96, 3), CNBlockConfig(96, 192, 9), CNBlockConfig(192, None, 3)]

    def make(*, weights: None, **options: Any) -> ConvNeXt:
        return ConvNeXt(stages, **options)

    monkeypatch.setattr(convnext, "TINY", replace(convnext.TINY, constructor=make))


@pytest.fixture
def workshop(tmp_path: Path, pictures: tuple[Path, Rows], weights_root: Path, device: Device, threads: LoaderThreads) -> Workshop:
    return Workshop(
        device,
        open_store(str(tmp_path / "models")),
        open_sources([str(pictures[0])]),
        threads,
        WeightsFinder([str(weights_root)]),
        64 << 20,
    )


@pytest.fixture
def spooled(tmp_path: Path) -> Callable[[Rows], str]:
    """Writes rows to a finished spool; gives its path."""

    def write(rows: Rows) -> str:
        spool = SpoolWriter(str(tmp_path))
        for image, label in rows:
            spool.add(image, label)
        spool.finish()
        return spool.path

    return write


@pytest.fixture
def run_build(workshop: Workshop, spooled: Callable[[Rows], str]) -> Callable[..., tuple[jobs.Built, list[jobs.Progress]]]:
    """Runs a BUILD of MobileNet_V2 at 32 pixels to its end; gives the result and every report."""

    def run(
        rows: Rows, *, architecture: str = "mobilenet_v2", start: str | None = None, checkpoint: str | None = None, **options: object
    ) -> tuple[jobs.Built, list[jobs.Progress]]:
        plain: dict[str, object] = {"input_size": 32, "epochs": 1, "batch_size": 8, "tune": "head", **options}
        chosen = jobs.TrainOptions(**plain)  # type: ignore[arg-type]
        request = jobs.Build(f"build-{next(_numbers)}", architecture, spooled(rows), chosen, start, checkpoint)
        reports: list[jobs.Progress] = []
        steps = build(request, workshop)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value, reports
            if isinstance(step, jobs.Progress):
                reports.append(step)

    return run
