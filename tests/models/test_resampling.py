"""Many images at once: the pixels that each has alone."""

from __future__ import annotations

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thanoproxy.models import resampling
from thanoproxy.models.preprocessing import MAX_ASPECT, Preprocessing, center_crop, scale
from thanoproxy.models.resampling import _matrices, _plan, scale_and_crop

WAYS = [
    Preprocessing(resize=58, crop=56),
    Preprocessing(resize=40, crop=40, interpolation="bicubic"),
    Preprocessing(resize=47, crop=32, color="GRAY"),
]


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """The hardest there is: no pixel is like its neighbour."""
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def off(images: list[torch.Tensor], preprocessing: Preprocessing, room: int = resampling.ROOM) -> torch.Tensor:
    """By how much each pixel differs from the one that is made alone."""
    found = scale_and_crop(images, preprocessing, room)
    wanted = [center_crop(scale(image, preprocessing), preprocessing) for image in images]
    assert all(one.dtype is torch.uint8 and one.is_contiguous() for one in found)
    return (torch.stack(found).int() - torch.stack(wanted).int()).abs()


sides = st.integers(1, 300)


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.tuples(sides, sides), min_size=1, max_size=5), way=st.sampled_from(WAYS))
def test_images_of_all_sizes(sizes: list[tuple[int, int]], way: Preprocessing) -> None:
    different = off([noise(*size, seed) for seed, size in enumerate(sizes)], way)
    assert int(different.max()) <= 1
    assert float((different > 0).float().mean()) < 0.003


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(375, 500), (500, 333), (1200, 900), (224, 224), (236, 300), (60, 2000), (2000, 60), (17, 17)])
def test_photos_at_the_published_sizes(size: tuple[int, int], interpolation: str) -> None:
    way = msgspec.structs.replace(Preprocessing(resize=236, crop=224), interpolation=interpolation)
    different = off([noise(*size)], way)
    assert int(different.max()) <= 1
    assert float((different > 0).float().mean()) < 0.001


def test_what_was_cut_and_cropped_is_not_looked_at() -> None:
    way = WAYS[0]
    image = noise(40, 40 * MAX_ASPECT * 2)
    plan = _plan(*image.shape[-2:], way)
    used = range(plan.part[1].start + plan.columns.begin, plan.part[1].start + plan.columns.end)
    assert len(used) < 45
    other = image.clone()
    other[:, :, : used.start] = 0
    other[:, :, used.stop :] = 255
    assert torch.equal(scale_and_crop([image], way)[0], scale_and_crop([other], way)[0])


def test_with_little_room_they_go_in_groups_and_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    groups, original = [], resampling._resample

    def counted(images: list[torch.Tensor], *rest: object) -> torch.Tensor:
        groups.append([image.shape[1] for image in images])
        return original(images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(resampling, "_resample", counted)
    images = [noise(height, 60) for height in (90, 60, 61, 100, 62)]
    assert int(off(images, WAYS[0], 500_000).max()) <= 1
    assert len(groups) > 1
    assert sorted(side for group in groups for side in group) == [60, 61, 62, 90, 100]
    groups.clear()
    assert int(off(images, WAYS[0], 1).max()) <= 1
    assert [len(group) for group in groups] == [1] * 5, "one image is not refused"


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_weights_lose_nothing_in_tf32(interpolation: str) -> None:
    """Whose significand has ten bits, and one that is not written."""
    way = msgspec.structs.replace(WAYS[0], interpolation=interpolation)
    sides = [_plan(size, size, way).rows for size in (56, 100, 375, 4000)]
    matrices = _matrices(sides, way.crop, 4000, resampling._FILTERS[interpolation], torch.device("cpu"))
    for matrix in matrices:
        assert not (matrix.contiguous().view(torch.int32) & 0x1FFF).any()
    assert torch.allclose((matrices.coarse + matrices.fine).sum(-1), torch.ones(1), atol=1e-3)


def test_a_view_that_was_turned_will_do() -> None:
    image = noise(90, 120)
    for turned in (image.transpose(1, 2), image.flip(-1).transpose(1, 2), image.flip(-2)):
        assert int(off([turned, image], WAYS[0]).max()) <= 1
