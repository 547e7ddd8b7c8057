"""Predictions of images that were predicted before: the same answers, without reading the images again."""

from __future__ import annotations

import asyncio
import base64
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.images.pictures import write_red_and_blue
from tests.workers.conftest import Rows, build
from thanoproxy.images import path, stamp
from thanoproxy.images.source import MAX_BYTES
from thanoproxy.workers import jobs
from thanoproxy.workers.inline import InlinePool
from thanoproxy.workers.pool import Pool
from thanoproxy.workers.settings import WorkerSettings

SETTLED = 0.05


@pytest.fixture
def folder(tmp_path: Path, settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures of this test's own, which may be believed unchanged after a shorter while."""
    monkeypatch.setattr(stamp, "SETTLED", int(SETTLED * 1e9))
    write_red_and_blue(tmp_path, 8)
    time.sleep(2 * SETTLED)
    return tmp_path


@pytest.fixture
async def pool(settings: WorkerSettings, folder: Path) -> AsyncIterator[InlinePool]:
    """With an empty cache."""
    pool = InlinePool(msgspec.structs.replace(settings, image_roots=(str(folder), *settings.image_roots)))
    await pool.start()
    yield pool
    await pool.close()


async def ask(pool: Pool, artifact: str, images: Sequence[jobs.Image], **more: Any) -> jobs.Predicted:
    return await pool.predict(jobs.Predict("p", artifact, list(images), **{"cache": True, **more}))


PICTURES = [f"{number}.png" for number in range(8)]
WAYS: list[dict[str, Any]] = [
    {},
    {"top_k": 2},
    {"top_k": 9, "vector": "probabilities"},
    {"top_k": 0, "vector": "features"},
    {"vector": "features"},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_what_is_known_has_the_bits_that_it_had_when_it_was_computed(pool: InlinePool, artifact: str, folder: Path, way: Any) -> None:
    images = [*PICTURES, None, (folder / "0.png").read_bytes(), "0.png", "gone.png"]
    first, second = [await ask(pool, artifact, images, **way) for _ in range(2)]
    assert (first.computed, second.computed) == (10, 1), "what fails is tried again"
    assert (second.classes, second.scores, second.vectors) == (first.classes, first.scores, first.vectors)
    assert second.failures == first.failures
    assert list(first.failures) == [11]
    assert first.classes[0] == first.classes[9] == first.classes[10]


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_and_those_that_it_has_without_the_cache(pool: InlinePool, artifact: str, way: Any) -> None:
    # All in one batch of the device's: the network may give other last digits in another one.
    answers = [await ask(pool, artifact, PICTURES, **way, cache=cache) for cache in (False, True, True)]
    assert [answer.computed for answer in answers] == [8, 8, 0]
    assert answers[0].classes == answers[1].classes == answers[2].classes
    assert answers[0].scores == answers[1].scores == answers[2].scores
    assert answers[0].vectors == answers[1].vectors == answers[2].vectors


async def test_all_that_is_asked_of_a_prediction_is_known_once_it_is(pool: InlinePool, artifact: str) -> None:
    one = await ask(pool, artifact, PICTURES)
    ranked = await ask(pool, artifact, PICTURES, top_k=2, vector="probabilities")
    assert ranked.computed == 0
    assert [scores and scores[:1] for scores in ranked.scores] == one.scores
    assert (await ask(pool, artifact, PICTURES, vector="features", top_k=0)).computed == 8


async def test_a_file_that_is_written_anew_is_another_image(pool: InlinePool, artifact: str, folder: Path) -> None:
    shutil.copy(folder / "0.png", folder / "it.png")
    await asyncio.sleep(2 * SETTLED)
    red = await ask(pool, artifact, ["it.png"])
    assert (await ask(pool, artifact, ["it.png"])).computed == 0
    for number in (1, 0, 1, 0):  # at once, one after the other
        shutil.copy2(folder / f"{number}.png", folder / "it.png")
        answer = await ask(pool, artifact, ["it.png"])
        assert answer.computed == 1, "it has just been written, so nobody knows whether it will be again"
        assert (answer.classes == red.classes) == (number == 0)
    await asyncio.sleep(2 * SETTLED)
    assert [(await ask(pool, artifact, ["it.png"])).computed for _ in range(2)] == [1, 0]


async def test_what_changes_while_it_is_read_is_not_kept(
    pool: InlinePool, artifact: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = path.LocalPath.read

    def read(self: path.LocalPath, image: str | bytes) -> bytes:
        data = original(self, image)
        shutil.copy2(folder / "1.png", folder / "0.png")
        return data

    with monkeypatch.context() as patched:
        patched.setattr(path.LocalPath, "read", read)
        red = await ask(pool, artifact, ["0.png"])
    await asyncio.sleep(2 * SETTLED)
    blue = await ask(pool, artifact, ["0.png"])
    assert blue.computed == 1
    assert blue.classes != red.classes


async def test_of_rows_with_the_same_image_one_is_computed(pool: InlinePool, artifact: str) -> None:
    images = [b"no image", "0.png", b"no image", "1.png", "0.png", None]
    answer = await ask(pool, artifact, images)
    assert answer.computed == 3
    assert {row: failure.row for row, failure in answer.failures.items()} == {0: 0, 2: 2}
    assert answer.classes == [None, answer.classes[1], None, answer.classes[3], answer.classes[1], None]
    assert (await ask(pool, artifact, images, cache=False)).computed == 5


async def test_an_answer_ends_before_the_first_image_that_would_be_too_much(pool: InlinePool, artifact: str) -> None:
    await ask(pool, artifact, PICTURES[2:4])
    images = [PICTURES[at] for at in (2, 0, 3, 0, 1, 2, 0, 4, 1, 3, 5)]
    answer = await ask(pool, artifact, images, most=2, vector="probabilities")
    assert (answer.computed, len(answer.classes), len(answer.vectors)) == (2, 7, 7)
    assert None not in answer.classes
    rest = await ask(pool, artifact, images[7:], most=2)
    assert (rest.computed, len(rest.classes)) == (2, 4)
    assert len((await ask(pool, artifact, ["6.png"] * 9, most=1, cache=False)).classes) == 1


async def test_features_are_known_of_all_models_on_one_backbone(pool: InlinePool, artifact: str, rows: Rows, tmp_path: Path) -> None:
    other = (await build(pool, [(image, {"red": "a", "blue": "b"}[label]) for image, label in rows], tmp_path)).artifact
    first = await ask(pool, artifact, PICTURES, vector="features", top_k=0)
    second = await ask(pool, other, PICTURES, vector="features", top_k=0)
    assert (second.computed, second.vectors) == (0, first.vectors)
    assert (await ask(pool, artifact, PICTURES)).computed == (await ask(pool, other, PICTURES)).computed == 8


async def test_what_is_known_waits_neither_for_the_device_nor_for_decoding(pool: InlinePool, artifact: str, folder: Path) -> None:
    known = await ask(pool, artifact, PICTURES)
    others = [(folder / f"{number % 8}.png").read_bytes() + bytes([number % 251]) for number in range(3000)]
    bulk = asyncio.create_task(pool.predict(jobs.Predict("bulk", artifact, list(others))))
    await asyncio.sleep(0.3)
    waits = []
    for _ in range(20):
        began = time.monotonic()
        assert (await ask(pool, artifact, PICTURES)).classes == known.classes
        waits.append(time.monotonic() - began)
    assert not bulk.done()
    assert sorted(waits)[10] < 0.05
    bulk.cancel()
    with pytest.raises(asyncio.CancelledError):
        await bulk


async def test_without_a_cache_everything_is_computed(settings: WorkerSettings, artifact: str) -> None:
    pool = InlinePool(msgspec.structs.replace(settings, prediction_cache=0))
    await pool.start()
    try:
        answers = [await ask(pool, artifact, ["0.png", "0.png", "1.png"]) for _ in range(2)]
    finally:
        await pool.close()
    assert [answer.computed for answer in answers] == [2, 2], "but the same image of one batch once"


async def test_a_data_url_and_bytes_are_known_by_their_content(pool: InlinePool, artifact: str, folder: Path) -> None:
    data = (folder / "0.png").read_bytes()
    images: list[jobs.Image] = [data, f"data:image/png;base64,{base64.b64encode(data).decode()}"]
    assert [(await ask(pool, artifact, images)).computed for _ in range(2)] == [2, 0]
    assert (await ask(pool, artifact, [data + b"."])).computed == 1
    assert (await ask(pool, artifact, [bytes(MAX_BYTES + 1)])).failures
