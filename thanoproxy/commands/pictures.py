"""The images of the demo, as files below one folder and as rows of two tables: what to learn from, and what to predict."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from thanoproxy.errors import ConfigurationError, DataError

__all__ = ["Pictures", "find_photos", "write_digits"]

TEST_SHARE = 0.2
SIDE = 32
ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
LIMIT_PER_CLASS = 1000


@dataclass(frozen=True)
class Pictures:
    """`train` and `test` are rows (path below `root`, label)."""

    root: Path
    train: list[tuple[str, str]]
    test: list[tuple[str, str]]


def write_digits(folder: Path) -> Pictures:
    """The 1,797 scanned handwritten digits that come with scikit-learn, as PNG files in `folder`.

    https://scikit-learn.org/stable/datasets/toy_dataset.html#optical-recognition-of-handwritten-digits-dataset
    """
    try:
        from PIL import Image
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ConfigurationError(f"the demo's images come with scikit-learn: {error}", hint="pip install 'thanoproxy[demo]'") from error
    digits = load_digits()
    labelled: dict[str, list[str]] = defaultdict(list)
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        scan = Image.fromarray((image * (255 / 16)).round().astype("uint8"))
        scan.resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(path)
        labelled[str(label)].append(str(path.relative_to(folder)))
    return Pictures(folder, *split(labelled))


def find_photos(folder: Path) -> Pictures:
    """The image files in each sub-folder of `folder`, whose names are the labels; at most `LIMIT_PER_CLASS` of each.

    Raises `ConfigurationError` where there is no such folder, `DataError` where it holds too little to learn from.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"--images: {folder} is not a folder")
    root = folder.resolve()
    labelled = {}
    for label in sorted(root.iterdir()):
        if label.is_dir() and not label.name.startswith("."):
            files = sorted(file for file in label.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
            if len(files) >= 2:
                labelled[label.name] = [str(file.relative_to(root)) for file in spread(files)]
    if len(labelled) < 2:
        raise DataError(
            f"--images: {folder} needs at least two sub-folders with two images each, one sub-folder for each class",
            hint=f"It has {len(labelled)} of that kind.",
        )
    return Pictures(root, *split(labelled))


def spread(files: list[Path]) -> list[Path]:
    """`LIMIT_PER_CLASS` of `files`, evenly chosen."""
    if len(files) <= LIMIT_PER_CLASS:
        return files
    return [files[place * len(files) // LIMIT_PER_CLASS] for place in range(LIMIT_PER_CLASS)]


def split(labelled: dict[str, list[str]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The same share of each class for the test, at least one; the same split each time."""
    train, test = [], []
    shuffler = random.Random(0)  # noqa: S311 - a fixed shuffle, not a secret
    for label, paths in sorted(labelled.items()):
        shuffled = shuffler.sample(paths, len(paths))
        count = max(1, round(len(paths) * TEST_SHARE))
        test += [(path, label) for path in shuffled[:count]]
        train += [(path, label) for path in shuffled[count:]]
    return shuffler.sample(train, len(train)), shuffler.sample(test, len(test))
