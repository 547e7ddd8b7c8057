"""Rows as training sees them: numbered labels, a fair split, loading that does not depend on threads."""

from __future__ import annotations

import tracemalloc
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine.conftest import Rows
from thanoproxy.engine.dataset import Augment, Dataset, batches, split_rows
from thanoproxy.errors import DataError, FileUnavailable, InvalidImage, NoData, NullNotAllowed, ThanoError
from thanoproxy.images import open_sources
from thanoproxy.images.loader import LoaderThreads
from thanoproxy.models.preprocessing import Preprocessing
from thanoproxy.workers.spool import Spool

SMALL = Preprocessing(resize=36, crop=32)
MakeDataset = Callable[..., Dataset]


@pytest.fixture
def make_dataset(pictures: tuple[Path, Rows], spooled: Callable[[Rows], str], threads: LoaderThreads) -> MakeDataset:
    def make(rows: Rows, *, budget: int = 1 << 20) -> Dataset:
        return Dataset(Spool(spooled(rows)), open_sources([str(pictures[0])]), threads, SMALL, pixel_budget=budget)

    return make


def distinct(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16)).astype(np.uint8)


def test_classes_are_the_sorted_labels(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([("0.png", "b"), ("1.png", "ä"), ("2.png", "a"), ("3.png", "b")])
    assert dataset.classes == ["a", "b", "ä"]
    assert list(dataset.labels) == [1, 2, 0, 1]


def test_no_rows_and_one_class_are_errors(make_dataset: MakeDataset) -> None:
    with pytest.raises(NoData, match="no rows"):
        make_dataset([])
    with pytest.raises(DataError, match='all rows have the same label "red"'):
        make_dataset([("0.png", "red"), ("2.png", "red")])


def test_a_scan_gives_every_row_in_order(make_dataset: MakeDataset, pictures: tuple[Path, Rows]) -> None:
    scanned = list(make_dataset(pictures[1]).scan(16))
    assert [row for batch in scanned for row in batch.rows] == list(range(40))
    assert [len(batch.rows) for batch in scanned] == [16, 16, 8]
    assert scanned[0].pixels.shape == (16, 3, 32, 32)
    assert scanned[0].pixels.dtype == torch.uint8
    assert torch.cat([batch.labels for batch in scanned]).tolist() == [1, 0] * 20


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        ("gone.png", FileUnavailable, '"gone.png" is not available'),
        ("../0.png", FileUnavailable, '"../0.png" is not available'),
        (b"no image", InvalidImage, "bytea of 8 bytes"),
        (None, NullNotAllowed, "the image of row 2 is NULL"),
    ],
)
def test_an_image_that_cannot_be_read_is_named(make_dataset: MakeDataset, image: str, error: type[ThanoError], words: str) -> None:
    with pytest.raises(error) as caught:
        list(make_dataset([("0.png", "red"), (image, "blue"), ("2.png", "red")]).scan(8))
    assert words in caught.value.message
    assert caught.value.row == 1


def test_pixels_are_the_same_with_and_without_room_to_keep_them(make_dataset: MakeDataset, pictures: tuple[Path, Rows]) -> None:
    kept, some, none = (make_dataset(pictures[1], budget=budget) for budget in (1 << 20, 20_000, 0))
    for augment in (None, Augment(7, 2)):
        plan = batches(range(40), 16, 0, 0)
        first = [batch.pixels for batch in kept.batches(plan, augment)]
        again = [batch.pixels for batch in kept.batches(plan, augment)]
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        for other in (some, none):
            assert all(torch.equal(a, b.pixels) for a, b in zip(first, other.batches(plan, augment), strict=True))


def test_random_crops_depend_on_seed_epoch_and_row_alone(make_dataset: MakeDataset, pictures: tuple[Path, Rows]) -> None:
    dataset = make_dataset(pictures[1])

    def crop(row: int, augment: Augment) -> torch.Tensor:
        return next(dataset.batches([[row]], augment)).pixels

    [forward] = dataset.batches([[3, 4, 5]], Augment(0, 0))
    [backward] = dataset.batches([[5, 4, 3]], Augment(0, 0))
    assert torch.equal(forward.pixels, backward.pixels.flip(0))
    assert not torch.equal(crop(3, Augment(0, 0)), crop(3, Augment(0, 1)))
    assert not torch.equal(crop(3, Augment(0, 0)), crop(3, Augment(1, 0)))


def test_the_split_takes_its_share_of_every_class() -> None:
    labels = [0] * 100 + [1] * 10 + [2] * 3
    split = split_rows(labels, distinct(113), 0.2, seed=0)
    assert sorted(split.training + split.validation) == list(range(113))
    assert [sum(labels[row] == label for row in split.validation) for label in range(3)] == [20, 2, 1]


def test_identical_bytes_stay_on_one_side_even_under_two_labels() -> None:
    digests = distinct(40)
    digests[10:20] = digests[0:10]
    digests[30:35] = digests[0:5]
    labels = [0] * 20 + [1] * 20
    for seed in range(20):
        split = split_rows(labels, digests, 0.3, seed)
        training = {digests[row].tobytes() for row in split.training}
        assert not training & {digests[row].tobytes() for row in split.validation}
        assert {labels[row] for row in split.training} == {0, 1}


def test_a_class_of_one_image_is_trained_on_not_validated() -> None:
    digests = distinct(12)
    digests[10:12] = digests[10]
    split = split_rows([0] * 10 + [1] * 2, digests, 0.5, seed=0)
    assert {10, 11} <= set(split.training)


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    digests, labels = distinct(50), [0, 1] * 25
    order = np.random.default_rng(1).permutation(50)
    one = split_rows(labels, digests, 0.2, seed=5)
    shuffled = split_rows([labels[at] for at in order], digests[order], 0.2, seed=5)
    assert {int(order[row]) for row in shuffled.validation} == set(one.validation)
    assert split_rows(labels, digests, 0.2, seed=6) != one
    assert list(split_rows(labels, digests, 0.0, seed=5).validation) == []


def test_many_rows_are_split_in_little_memory() -> None:
    count = 100_000
    digests = np.random.default_rng(0).integers(0, 256, (count, 16), np.uint8)
    labels = array("i", np.random.default_rng(1).integers(0, 5, count, np.int32).tobytes())
    tracemalloc.start()
    split = split_rows(labels, digests, 0.2, seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(split.validation) == pytest.approx(count / 5, abs=5)
    assert peak < 200 * count


def test_batches_cover_every_row_once_and_leave_no_crumbs() -> None:
    plan = batches(range(65), 64, seed=0, epoch=0)
    assert sorted(row for rows in plan for row in rows) == list(range(65))
    assert [len(rows) for rows in plan] == [33, 32]
    assert batches(range(65), 64, seed=0, epoch=1) != plan


def test_rare_classes_weigh_more(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([("0.png", "red")] * 6 + [("1.png", "blue")] * 2)
    assert dataset.class_weights(range(8)).tolist() == pytest.approx([2.0, 8 / 12])
    assert dataset.class_weights(range(6)).tolist() == pytest.approx([6.0, 1.0])
