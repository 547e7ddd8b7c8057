"""A notebook without a browser: IPython's own shell, its cells, and what each cell printed."""

from __future__ import annotations

import atexit
import io
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import convnext_tiny
from traitlets.config import Config

from tests.databases import Database
from tests.serving import running_proxy

VARIABLES = ("THANOSQL_URL", "DATABASE_URL", "PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGSERVICE")


@dataclass(frozen=True)
class Cell:
    """One cell that has run: its value, what it printed, and what it raised."""

    value: Any
    printed: str
    error: BaseException | None


class Notebook:
    """Runs cells as Jupyter does."""

    def __init__(self, shell: Any) -> None:  # IPython's shell, whose methods carry no types
        self.shell = shell

    def run(self, source: str, stdout: io.StringIO | None = None) -> Cell:
        """Run one cell, whatever comes of it."""
        output = io.StringIO() if stdout is None else stdout
        with redirect_stdout(output), redirect_stderr(output):
            result = self.shell.run_cell(source, store_history=True)
        return Cell(result.result, output.getvalue(), result.error_before_exec or result.error_in_exec)

    def ok(self, source: str) -> Cell:
        """Run one cell that must not fail."""
        cell = self.run(source)
        assert cell.error is None, cell.printed
        return cell

    def __getitem__(self, name: str) -> Any:
        """A variable of the notebook."""
        return self.shell.user_ns[name]


@pytest.fixture
def blank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    """A new notebook with the extension loaded, that knows of no database."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    make: Any = InteractiveShell
    shell = make(config=Config(HistoryManager={"enabled": False}))
    notebook = Notebook(shell)
    notebook.ok("%load_ext thanosql")
    yield notebook
    notebook.run("%unload_ext thanosql")
    atexit.unregister(shell.atexit_operations)
    shell.atexit_operations()


@pytest.fixture
def connect(blank: Notebook) -> Callable[[str], Notebook]:
    """Connects the notebook to a URL."""

    def connected(url: str) -> Notebook:
        blank.ok(f"%thanosql {url}")
        return blank

    return connected


@pytest.fixture
def notebook(connect: Callable[[str], Notebook], empty_database: Database) -> Notebook:
    """A notebook connected to a new, empty database."""
    return connect(empty_database.url)


def make_photos(root: Path, folder: str, each: int) -> Iterator[tuple[str, str]]:
    """Noise in two colours, as (path below the root, label)."""
    (root / folder).mkdir()
    for label, colour in (("cat", (220, 120, 40)), ("dog", (40, 90, 200))):
        for number in range(each):
            photo = Image.blend(Image.effect_noise((64, 64), 60).convert("RGB"), Image.new("RGB", (64, 64), colour), 0.6)
            photo.save(root / folder / f"{label}.{number}.png")
            yield f"{folder}/{label}.{number}.png", label


def make_weights(file: Path) -> None:
    """Random weights under the name and in the form of ImageNet's: here the cells count, not the accuracy."""
    torch.manual_seed(0)
    save_file(convnext_tiny(weights=None).state_dict(), file)


@pytest.fixture(scope="module")
def tutorial(module_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A URL through a proxy, of a database with the tutorial's two tables; weights for ConvNeXt_Tiny are in reach."""
    images, weights, artifacts = (tmp_path_factory.mktemp(name) for name in ("images", "weights", "artifacts"))
    make_weights(weights / "convnext_tiny.safetensors")
    with running_proxy(module_database.url, [images], artifacts, weights=[weights]) as proxy:
        url = proxy.url(module_database)
        with psycopg.connect(url, autocommit=True) as connection:
            for table, each in (("cat_and_dog_train", 4), ("cat_and_dog_test", 4)):  # at 224 pixels each is a second
                connection.execute(f"CREATE TABLE {table} (image text, label text)")
                connection.cursor().executemany(f"INSERT INTO {table} VALUES (%s, %s)", make_photos(images, table, each))
        yield url
