"""From pixels to a network's input: the same numbers as torchvision's own transforms."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from tests.images.pictures import RED, noisy
from thanoproxy.models.preprocessing import MAX_ASPECT, Preprocessing, center_crop, normalize, scale

PUBLISHED = Preprocessing(resize=58, crop=56)


def picture(width: int, height: int) -> torch.Tensor:
    image = noisy(RED, 3, 100).resize((width, height))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("size", [(100, 75), (75, 100), (300, 301), (58, 58), (40, 57), (8, 8), (200, 51)])
def test_it_is_what_torchvision_does(size: tuple[int, int]) -> None:
    pixels = picture(*size)
    ours = center_crop(scale(pixels, PUBLISHED), PUBLISHED)
    theirs = v2.Compose([v2.Resize(58, antialias=True), v2.CenterCrop(56)])(pixels)
    assert torch.equal(ours, theirs)
    normal = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(PUBLISHED.mean, PUBLISHED.std)])(theirs)
    torch.testing.assert_close(normalize(ours[None], PUBLISHED, torch.float32)[0], normal)


@pytest.mark.parametrize("size", [(1, 60000), (60000, 1), (5000, 3)])
def test_a_sliver_does_not_become_gigabytes(size: tuple[int, int]) -> None:
    scaled = scale(torch.zeros(3, *size, dtype=torch.uint8), PUBLISHED)
    assert min(scaled.shape[1:]) == 58
    assert max(scaled.shape[1:]) <= MAX_ASPECT * 58
    assert center_crop(scaled, PUBLISHED).shape == (3, 56, 56)


def test_grey_has_three_equal_channels_of_the_usual_weights() -> None:
    pixels = picture(58, 58)
    grey = scale(pixels, msgspec.structs.replace(PUBLISHED, color="GRAY"))
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])
    theirs = v2.functional.rgb_to_grayscale(pixels)[0]
    assert int((grey[0].int() - theirs.int()).abs().max()) <= 1


def test_it_survives_the_manifest() -> None:
    plain = msgspec.json.decode(msgspec.json.encode(msgspec.to_builtins(PUBLISHED)))
    assert msgspec.convert(plain, Preprocessing) == PUBLISHED
