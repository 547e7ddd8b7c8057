from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from thanoproxy.commands.pictures import LIMIT_PER_CLASS, find_photos, split, spread, write_digits
from thanoproxy.errors import ConfigurationError, DataError


def test_digits_are_png_files_in_folders_of_their_labels(tmp_path: Path) -> None:
    pictures = write_digits(tmp_path)
    rows = pictures.train + pictures.test
    assert len(rows) == 1797
    assert len({path for path, _ in rows}) == 1797
    assert all(path.split("/")[0] == label for path, label in rows)
    assert 340 <= len(pictures.test) <= 380
    with Image.open(tmp_path / rows[0][0]) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (32, 32), "L")
    assert write_digits(tmp_path) == pictures


def test_photos_are_found_by_folder(tmp_path: Path) -> None:
    for label in ("cat", "dog", "empty", ".hidden"):
        (tmp_path / label / "deeper").mkdir(parents=True)
    for label in ("cat", "dog", ".hidden"):
        for number in range(5):
            (tmp_path / label / f"{number}.JPG").touch()
        (tmp_path / label / "deeper" / "6.png").touch()
        (tmp_path / label / "notes.txt").touch()
    pictures = find_photos(tmp_path)
    rows = sorted(pictures.train + pictures.test)
    assert len(rows) == 12
    assert rows[:2] == [("cat/0.JPG", "cat"), ("cat/1.JPG", "cat")]
    assert ("dog/deeper/6.png", "dog") in rows
    assert {label for _, label in pictures.test} == {"cat", "dog"}


def test_too_little_to_learn_from(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a folder"):
        find_photos(tmp_path / "nowhere")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.jpg").touch()
    (tmp_path / "cat" / "2.jpg").touch()
    with pytest.raises(DataError, match="at least two sub-folders"):
        find_photos(tmp_path)


def test_every_class_is_tested_and_learned() -> None:
    train, test = split({"a": ["a1", "a2"], "b": [f"b{number}" for number in range(100)]})
    assert {label for _, label in train} == {label for _, label in test} == {"a", "b"}
    assert (len(train), len(test)) == (81, 21)


def test_large_folders_are_thinned_out() -> None:
    files = [Path(str(number)) for number in range(2500)]
    assert spread(files[:10]) == files[:10]
    thinned = spread(files)
    assert len(set(thinned)) == LIMIT_PER_CLASS
    assert thinned[-1] == files[-3]
