from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.commands.test_cli import thanoproxy
from thanoproxy.embedded import temporary_directory


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_directory("thanoproxy-test-") as path:
        yield path


def show(done: subprocess.CompletedProcess[str]) -> str:
    return f"{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_learns_digits(folder: Path) -> None:
    done = thanoproxy("demo", "--directory", folder / "demo", "--listen", "127.0.0.1:0", seconds=500)
    assert done.returncode == 0, show(done)
    found = re.search(r"accuracy (\d\.\d+) \((\d+) of (\d+)\)", done.stdout)
    assert found, show(done)
    assert float(found[1]) >= 0.9
    assert int(found[3]) == 359
    assert "NOTICE" in done.stdout
    assert 'psql "postgresql://' in done.stdout


@pytest.mark.timeout(200)
def test_photos_without_weights_end_1_and_name_the_ways(folder: Path) -> None:
    for label, colour in (("cat", "red"), ("dog", "blue")):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (40, 40), colour).save(folder / "photos" / label / f"{number}.png")
    done = thanoproxy(
        "demo", "--directory", folder / "demo", "--images", folder / "photos", "--listen", "127.0.0.1:0",
        TORCH_HOME=str(folder / "torch"),
    )  # fmt: skip
    assert done.returncode == 1, show(done)
    assert "no pretrained weights for ConvNeXt_Tiny" in done.stderr
    assert "--weights-root" in done.stderr
    assert "pretrained=false" in done.stderr
