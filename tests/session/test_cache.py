"""Predictions that are known from before, as clients find them: the same rows, sooner, and never those of another image."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from tests.serving import Proxy
from tests.session.asking import Connection, fetched
from thanoproxy.images import stamp
from thanoproxy.images.inline import Bytes
from thanoproxy.images.path import LocalPath
from thanoproxy.session.decorate import _next_batch

STATEMENTS = [
    "PREDICT USING colours OPTIONS (score=true, {}) AS SELECT id, image FROM pictures ORDER BY id",
    "PREDICT USING colours OPTIONS (top_k=2, probabilities=true, threshold=0.6, {}) AS SELECT id, image FROM pictures ORDER BY id",
    "CONVERT USING colours OPTIONS ({}) AS SELECT id, image FROM pictures ORDER BY id",
    "EVALUATE USING colours OPTIONS (per_class=true, {}) AS SELECT image, label FROM pictures",
    "SELECT predicted, count(*) FROM (PREDICT USING colours OPTIONS ({}) AS SELECT image FROM pictures) t GROUP BY 1 ORDER BY 1",
]


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was read until now; the pictures may be younger than files are otherwise."""
    monkeypatch.setattr(stamp, "SETTLED", 0)
    read: list[object] = []

    def counted(source: type[LocalPath] | type[Bytes]) -> None:
        original = source.read
        monkeypatch.setattr(source, "read", lambda self, image: read.append(image) or original(self, image))

    counted(LocalPath)
    counted(Bytes)
    return read


@pytest.fixture
def changing(proxy: Proxy, connection: Connection) -> Iterator[Path]:
    """A picture of this test's own, `changing.png`, which is red."""
    place = proxy.images / "changing.png"
    shutil.copy(proxy.images / "red" / "0.png", place)
    yield place
    place.unlink()


@pytest.mark.parametrize("statement", STATEMENTS)
def test_asking_again_reads_nothing_and_gives_the_same(connection: Connection, unread: list[object], statement: str) -> None:
    first = fetched(connection, statement.format("batch_size=16"))
    unread.clear()
    assert fetched(connection, statement.format("batch_size=16, cache=true")) == first
    assert unread == []
    fetched(connection, statement.format("cache=false"))
    assert len(unread) == 24


def test_another_session_knows_it_too(url: str, connection: Connection, unread: list[object]) -> None:
    first = fetched(connection, STATEMENTS[0].format("cache=true"))
    unread.clear()
    with psycopg.connect(url) as other:
        assert fetched(other, STATEMENTS[0].format("cache=true")) == first
    assert unread == []


def test_a_file_that_was_changed_is_seen_by_the_next_statement(proxy: Proxy, connection: Connection, changing: Path) -> None:
    for colour in ("red", "blue", "blue", "red", "blue", "red"):
        # Within the same step of the clock, as often as not; with the same size, and dated as before.
        shutil.copy2(proxy.images / colour / "0.png", changing)
        for _ in range(2):
            assert fetched(connection, "PREDICT USING colours AS SELECT 'changing.png' AS image") == [("changing.png", colour)]


def test_known_and_unknown_images_come_in_the_order_of_the_rows(proxy: Proxy, connection: Connection, unread: list[object]) -> None:
    connection.execute("CREATE TEMPORARY TABLE pair (label text, image bytea)")
    for colour in ("red", "blue"):
        connection.execute("INSERT INTO pair VALUES (%s, %s)", [colour, (proxy.images / colour / "0.png").read_bytes()])
    # Known for thousands of rows, so that batches are as large as they get; then unknown ones, and later some among others.
    made = "image || CASE WHEN number BETWEEN 6000 AND 6400 OR number % 500 = 7 THEN int4send(number) ELSE '' END"
    query = f"SELECT number, label, {made} AS image FROM (SELECT generate_series(1, 9000)) AS n (number) JOIN pair ON "
    query += "label = CASE number % 3 WHEN 0 THEN 'blue' ELSE 'red' END ORDER BY number"
    rows = fetched(connection, f"PREDICT USING colours AS {query}")
    assert [number for number, *_ in rows] == list(range(1, 9001))
    assert all(label == predicted for _, label, _, predicted in rows)
    assert len(unread) < 700, "401 and 18, and the first two as often as batches of them were in flight"


@pytest.mark.parametrize(("size", "rows", "computed", "following"), [
    (64, 64, 64, 64),
    (64, 64, 33, 64),
    (64, 64, 32, 128),
    (256, 256, 0, 512),
    (512, 512, 0, 512),
    (512, 512, 100, 64),
    (16, 8, 0, 16),
])  # fmt: skip
def test_batches_grow_while_little_of_them_is_computed(size: int, rows: int, computed: int, following: int) -> None:
    assert _next_batch(size, rows, computed) == following


@pytest.mark.parametrize(("cache", "least", "most"), [("true", 5, 40), ("false", 40, 1000)])
def test_known_rows_go_to_the_workers_in_large_batches(
    connection: Connection, unread: list[object], cache: str, least: int, most: int
) -> None:
    query = f"PREDICT USING colours OPTIONS (cache={cache}) AS SELECT image FROM pictures, generate_series(1, 100)"
    fetched(connection, STATEMENTS[0].format("cache=true"))
    lines = fetched(connection, f"EXPLAIN ANALYZE SELECT count(predicted) FROM ({query}) t")
    found = re.search(r"rows=2400 batches=(\d+)", "\n".join(line for (line,) in lines))
    assert found is not None
    assert least <= int(found[1]) < most


def test_an_image_that_cannot_be_read_is_tried_each_time(connection: Connection, proxy: Proxy, changing: Path) -> None:
    statement = "PREDICT USING colours OPTIONS (on_error='null') AS SELECT 'changing.png' AS image FROM generate_series(1, 3)"
    changing.write_bytes(b"no image")
    assert fetched(connection, statement) == [("changing.png", None)] * 3
    changing.unlink()
    with pytest.raises(errors.UndefinedFile):
        connection.execute("PREDICT USING colours AS SELECT 'changing.png' AS image")
    shutil.copy(proxy.images / "blue" / "1.png", changing)
    assert fetched(connection, statement) == [("changing.png", "blue")] * 3


def test_nothing_is_known_outside_of_the_roots(connection: Connection, proxy: Proxy, tmp_path: Path, changing: Path) -> None:
    statement = "PREDICT USING colours AS SELECT 'changing.png' AS image"
    outside = tmp_path / "secret.png"
    shutil.copy(changing, outside)
    assert fetched(connection, statement) == [("changing.png", "red")]
    changing.unlink()
    changing.symlink_to(outside)
    with pytest.raises(errors.UndefinedFile):
        connection.execute(statement)
