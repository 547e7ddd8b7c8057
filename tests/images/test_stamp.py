"""Whether a file is still the one that was read: what its stamp tells, and when that can be believed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from thanoproxy.images import open_sources
from thanoproxy.images.beneath import Roots
from thanoproxy.images.stamp import SETTLED, Stamp


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "cats").mkdir(parents=True)
    for name in ("top.png", "cats/1.png", "cats/2.png"):
        (tmp_path / "root" / name).write_bytes(name.encode())
    (tmp_path / "secret.png").write_bytes(b"secret")
    return tmp_path / "root"


def stamp_of(root: Path, name: str = "top.png") -> Stamp:
    (stamp,) = Roots([str(root)]).stamps([name])
    assert stamp is not None
    return stamp


def rewrite(path: Path) -> None:
    """Another content of the same size, in place, dated as before."""
    found = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def exchange(path: Path) -> None:
    """Another file of the same size and date in its place."""
    found, other = path.stat(), path.with_name("other")
    other.write_bytes(path.read_bytes()[::-1])
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [rewrite, exchange, lambda path: path.write_bytes(b"longer than it was"), os.utime])
def test_whatever_is_done_to_a_file_changes_its_stamp(root: Path, change: object) -> None:
    assert callable(change)
    before = stamp_of(root)
    assert stamp_of(root) == before
    time.sleep(0.02)  # the step of the file system's clock
    change(root / "top.png")
    assert stamp_of(root).mark != before.mark


def test_a_stamp_is_believed_once_the_file_has_been_left_alone_for_a_while(root: Path) -> None:
    stamp = stamp_of(root)
    assert not stamp.is_settled(time.time_ns())
    assert stamp.is_settled(stamp.changed + SETTLED + 1)
    os.utime(root / "top.png", (0, 0))
    assert not stamp_of(root).is_settled(time.time_ns()), "whatever date it was given"
    tomorrow = time.time() + 86400
    os.utime(root / "top.png", (tomorrow, tomorrow))
    assert not stamp_of(root).is_settled(time.time_ns() + SETTLED + 1)


def test_each_of_many_names_has_the_stamp_that_it_has_alone(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "cats").mkdir(parents=True)
    (other / "cats" / "3.png").write_bytes(b"in the second root")
    (root / "cats" / "link.png").symlink_to("../top.png")
    (root / "cats" / "away.png").symlink_to(tmp_path / "secret.png")
    roots = Roots([str(root), str(other)])
    good = ["top.png", "./cats//1.png", "cats/2.png", str(root / "cats" / "1.png"), "cats/../top.png", "cats/3.png", "cats/link.png"]
    bad = [
        "/top.png",
        "",
        ".",
        "..",
        "cats",
        "cats/",
        "cats/..",
        "gone.png",
        "gone/1.png",
        "../secret.png",
        "cats/away.png",
        "cats/\0.png",
        "c\ud800",
    ]
    found = roots.stamps([*good, *bad])
    assert found == [roots.stamps([name])[0] for name in (*good, *bad)]
    assert None not in found[: len(good)]
    assert found[len(good) :] == [None] * len(bad)
    assert found[0] == found[4] == found[6], "one file under three names"


def test_no_folder_stays_open(root: Path) -> None:
    for number in range(100):
        (root / f"{number}").mkdir()
        (root / f"{number}" / "1.png").write_bytes(b"1")
    before = len(os.listdir("/proc/self/fd"))
    assert None not in Roots([str(root)]).stamps([f"{number % 100}/1.png" for number in range(200)])
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_the_row_says_in_full_has_always_the_same(root: Path) -> None:
    images = [b"bytes", "data:,x", "top.png", "gone.png", "s3://bucket/1.png", b"other bytes"]
    found = open_sources([str(root)]).stamps(images)
    assert found[0] == found[1] == found[5] == Stamp(b"", 0)
    assert found[2] == stamp_of(root)
    assert found[3] is None
    assert found[4] is None
