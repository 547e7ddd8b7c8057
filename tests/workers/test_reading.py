"""The process that reads a file with rows: what it says, that nothing is read ahead of whoever wants it, and that it outlives nobody."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest

from thanoproxy.errors import FileUnavailable
from thanoproxy.files.table import Wanted
from thanoproxy.workers.reading import FileReader, Reading
from thanoproxy.workers.spawning import spawn


@pytest.fixture
def reader(tmp_path: Path) -> FileReader:
    (tmp_path / "a.csv").write_text("a\n" + "1\n" * 500_000)
    return FileReader((str(tmp_path),), (str(tmp_path),))


async def read_all(reading: Reading) -> bytes:
    async with aclosing(reading.parts()) as parts:
        return b"".join([part async for part in parts])


async def test_a_file_from_beginning_to_end(reader: FileReader, tmp_path: Path) -> None:
    reading = await reader.open("a.csv")
    assert [(field.name, field.type) for field in reading.fields] == [("a", "pg_catalog.int8")]
    assert await read_all(reading) == (tmp_path / "a.csv").read_bytes()
    await reading.close()


async def test_what_is_wrong_is_raised_here(reader: FileReader) -> None:
    with pytest.raises(FileUnavailable, match=r"nothing\.csv"):
        await reader.open("nothing.csv")


async def test_nothing_is_read_ahead(reader: FileReader) -> None:
    reading = await reader.open("a.csv")
    async with aclosing(reading.parts()) as parts:
        await anext(parts)
        before = _read_bytes(reading)
        await asyncio.sleep(0.3)
        assert _read_bytes(reading) - before < 1 << 19
    await reading.close()


def _read_bytes(reading: Reading) -> int:
    fields = dict(line.split(": ") for line in Path(f"/proc/{reading._process.pid}/io").read_text().splitlines())
    return int(fields["rchar"])


async def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n" + "1,2020-01-01\n" * 1_000_000)
    process = await spawn("thanoproxy.workers.reading_process")
    assert process.stdin is not None
    wanted = Wanted(source="a.csv", image_roots=(), file_roots=(str(tmp_path),))
    process.stdin.write(msgspec.json.encode(wanted) + b"\n")
    await asyncio.sleep(0.3)
    started = time.monotonic()
    process.stdin.close()
    assert await process.wait() == 0
    assert time.monotonic() - started < 1


async def test_a_close_leaves_no_process(reader: FileReader) -> None:
    reading = await reader.open("a.csv")
    await reading.close()
    with pytest.raises(ProcessLookupError):
        os.kill(reading._process.pid, 0)


async def test_many_at_once_wait_for_their_turn(reader: FileReader) -> None:
    readings = await asyncio.gather(*(reader.open("a.csv") for _ in range(6)))
    assert {reading.fields[0].type for reading in readings} == {"pg_catalog.int8"}
    for reading in readings:
        await reading.close()
