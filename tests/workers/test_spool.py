"""The rows of a BUILD, in a file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from thanoproxy.errors import FileFailure, InternalError
from thanoproxy.workers.jobs import Image
from thanoproxy.workers.spool import Spool, SpoolWriter

ROWS: list[tuple[Image, str]] = [("a.png", "cat"), (b"\0\xff", "dog"), (None, ""), ("ü" * 1000, "日本"), (b"x" * 3_000_000, "big")]


def write(folder: Path, rows: list[tuple[Image, str]] = ROWS) -> SpoolWriter:
    spool = SpoolWriter(str(folder))
    for image, label in rows:
        spool.add(image, label)
    return spool


def test_rows_come_back_in_order_and_by_number(tmp_path: Path) -> None:
    writer = write(tmp_path)
    writer.finish()
    spool = Spool(writer.path)
    assert list(spool.rows()) == ROWS
    assert [spool.row(number) for number in (4, 0, 3)] == [ROWS[number] for number in (4, 0, 3)]
    assert (writer.rows, writer.size_bytes) == (5, os.path.getsize(writer.path) - 4)
    spool.close()


@pytest.mark.parametrize("cut", [None, 1, 5, 1000])
def test_a_spool_that_was_not_finished_is_not_taken_for_whole(tmp_path: Path, cut: int | None) -> None:
    writer = write(tmp_path)
    if cut is None:
        writer._file.flush()
    else:
        writer.finish()
        os.truncate(writer.path, os.path.getsize(writer.path) - cut)
    spool = Spool(writer.path)
    with pytest.raises(InternalError, match="incomplete"):
        list(spool.rows())
    spool.close()
    writer.discard()


def test_it_is_its_owners_alone_and_gone_after_the_block(tmp_path: Path) -> None:
    with write(tmp_path) as spool:
        assert stat.S_IMODE(os.stat(spool.path).st_mode) == 0o600
    assert list(tmp_path.iterdir()) == []
    spool.discard()
    with pytest.raises(InternalError, match="are gone"):
        Spool(spool.path)


def test_a_spool_without_rows(tmp_path: Path) -> None:
    with write(tmp_path, []) as writer:
        writer.finish()
        spool = Spool(writer.path)
        assert list(spool.rows()) == []
        spool.close()


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path))
    os.unlink(writer.path)
    writer._file.close()
    writer._file = open("/dev/full", "wb", buffering=100)  # noqa: SIM115 - closed below
    writer.add("x", "small")
    with pytest.raises(FileFailure, match="cannot be kept: No space left on device"):
        writer.add("x" * 1000, "large")
    with pytest.raises(FileFailure, match="No space left on device"):
        writer.finish()
    writer.discard()
    with pytest.raises(FileFailure, match="cannot be kept: No such file"):
        SpoolWriter(str(tmp_path / "gone"))
