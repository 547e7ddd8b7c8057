"""Photos and weights for the benchmarks, and models made of them through the proxy."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import LiteralString, cast

import psycopg

from tests.bench.running import Served, serving, url_of
from tests.bench.script import PlainScript
from tests.conftest import data_folder
from thanoproxy.embedded import EmbeddedPostgres

__all__ = ["ARCHITECTURES", "Photos", "Stand", "find_photos", "stand"]

ARCHITECTURES = ("MobileNet_V2", "ConvNeXt_Tiny")

Rows = list[tuple[str, str]]


@dataclass(frozen=True)
class Photos:
    """Rows of (path, label), and the folder that the paths lie below."""

    root: Path
    train: Rows
    test: Rows
    weights: Path
    """A folder of published weights: MobileNet_V2's."""

    def some(self, count: int, of: str = "both") -> Rows:
        """`count` of them, from the first again where there are too few."""
        rows = {"train": self.train, "test": self.test, "both": self.train + self.test}[of]
        return list(islice(cycle(rows), count))

    def full(self, rows: Rows) -> list[str]:
        """The paths as a script needs them."""
        return [str(self.root / path) for path, _ in rows]


@dataclass(frozen=True)
class Stand:
    """A proxy with photos in reach, in which `photos` (id, image, label) is filled anew for each measurement."""

    served: Served
    url: str
    photos: Photos
    weights: dict[str, Path]

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self.url, autocommit=True)

    def fill(self, rows: Rows, table: str = "photos") -> None:
        with self.connect() as connection:
            connection.execute(sql(f"DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (id int, image text, label text)"))
            with connection.cursor().copy(sql(f"COPY {table} FROM STDIN")) as copy:
                for number, row in enumerate(rows):
                    copy.write_row((number, *row))

    def build(self, model: str, architecture: str, options: str, table: str = "photos") -> str:
        """Build a model on all of `table`; its artifact."""
        with self.connect() as connection:
            connection.execute(
                sql(f"BUILD MODEL {model} USING {architecture} OPTIONS (overwrite=true, {options}) AS SELECT image, label FROM {table}")
            )
            row = connection.execute("SELECT artifact FROM thanosql.models WHERE name = %s", [model]).fetchone()
        assert row is not None, "it was just built"
        return str(row[0])


def sql(text: str) -> LiteralString:
    return cast(LiteralString, text)


def find_photos() -> Photos:
    folder = data_folder()
    if folder is None:
        raise SystemExit("no photos and weights to measure with: set THANOPROXY_TEST_DATA")

    def rows(name: str) -> Rows:
        with open(folder / "data" / name, newline="") as file:
            found = [(row["image"], row["label"]) for row in csv.DictReader(file)]
        random.Random(0).shuffle(found)  # they lie in order of their labels
        return found

    return Photos(folder / "data" / "cat_and_dog", rows("cat_and_dog_train.csv"), rows("cat_and_dog_test.csv"), folder / "weights")


@contextmanager
def stand(postgres: EmbeddedPostgres, script: PlainScript, folder: Path) -> Iterator[Stand]:
    """Serve in front of `postgres`; weights that are not to be had are invented in `folder`."""
    photos = find_photos()
    invented = folder / "weights"
    invented.mkdir(mode=0o755)
    weights = {
        "MobileNet_V2": photos.weights / "mobilenet_v2_imagenet.safetensors",
        "ConvNeXt_Tiny": invented / "convnext_tiny.safetensors",
    }
    script.order("invent", architecture="ConvNeXt_Tiny", file=str(weights["ConvNeXt_Tiny"]))
    roots = ["--weights-root", str(photos.weights), "--weights-root", str(invented), "--image-root", str(photos.root)]
    with serving(postgres, *roots) as served:
        yield Stand(served, url_of(postgres, served.port), photos, weights)
