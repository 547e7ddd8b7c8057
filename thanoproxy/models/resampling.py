"""Scaling and cropping of many images at once, of whatever sizes: for a device, which is not to be told of each by itself.

The pixels are those of `preprocessing.scale` and `center_crop`.  What torch does there to an image (`HelperInterpBase` in its
`UpSampleKernel.cpp`) is a product with one matrix from each side: each of its rows has the weights of the few pixels that a new pixel is
made of, rounded to sixteen bits, and between the two products pixels are rounded to eight.  So images of similar size are laid on one
canvas, each in its corner, and multiplied by matrices of their own; only what the crop needs of an image is laid there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

from thanoproxy.models.preprocessing import Preprocessing, grey, kept, scaled_size

__all__ = ["ROOM", "scale_and_crop"]

ROOM = 256 * 1024 * 1024
"""Bytes that the canvas of one group of images and what is made of it may take."""


def scale_and_crop(images: Sequence[torch.Tensor], preprocessing: Preprocessing, room: int = ROOM) -> list[torch.Tensor]:
    """uint8 (3, h, w) each, on one device -> uint8 (3, crop, crop) each, as `center_crop(scale(image))` but for a last bit here and there.

    One image may take more than `room`.
    """
    plans = [_plan(image.shape[-2], image.shape[-1], preprocessing) for image in images]
    found: list[torch.Tensor | None] = [None] * len(images)
    for group in _groups(plans, preprocessing.crop, room):
        some = _resample([images[at] for at in group], [plans[at] for at in group], preprocessing)
        for at, pixels in zip(group, some.unbind(), strict=True):
            found[at] = pixels
    return [pixels for pixels in found if pixels is not None]


class _Side(NamedTuple):
    """One side of an image, of `size` pixels that become `scaled`; the crop begins at `first` of these, and is made of `begin` to `end`."""

    size: int
    scaled: int
    first: int
    begin: int
    end: int

    @property
    def needed(self) -> int:
        return self.end - self.begin


class _Plan(NamedTuple):
    """What is to become of an image: its two sides, of the part that is not cut off."""

    rows: _Side
    columns: _Side
    part: tuple[slice, slice]


class _Filter(NamedTuple):
    """How far a new pixel reaches, in old ones or, if the image becomes smaller, in new ones; and how much one at a distance counts."""

    reach: float
    weight: Callable[[torch.Tensor], torch.Tensor]


def _bilinear(x: torch.Tensor) -> torch.Tensor:
    return (1 - x).clamp(min=0)


def _bicubic(x: torch.Tensor) -> torch.Tensor:
    a = -0.5
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


_FILTERS = {"bilinear": _Filter(1.0, _bilinear), "bicubic": _Filter(2.0, _bicubic)}


def _plan(height: int, width: int, preprocessing: Preprocessing) -> _Plan:
    part = kept(height, width)
    height, width = (of.stop - of.start for of in part)
    crop, reach = preprocessing.crop, _FILTERS[preprocessing.interpolation].reach
    tall, wide = scaled_size(height, width, preprocessing)
    return _Plan(_side(height, tall, crop, reach), _side(width, wide, crop, reach), part)


def _side(size: int, scaled: int, crop: int, reach: float) -> _Side:
    first, scale = round((scaled - crop) / 2), size / scaled
    reach *= max(scale, 1.0)
    begin = max(int(scale * (first + 0.5) - reach + 0.5), 0)
    end = min(int(scale * (first + crop - 0.5) + reach + 0.5), size)
    return _Side(size, scaled, first, begin, end)


def _groups(plans: Sequence[_Plan], crop: int, room: int) -> Iterator[list[int]]:
    """Which images share a canvas: those of similar size, so that little of it is empty."""
    group: list[int] = []
    rows = columns = 0
    for at in sorted(range(len(plans)), key=lambda at: (plans[at].columns.needed, plans[at].rows.needed)):
        rows, columns = max(rows, plans[at].rows.needed), max(columns, plans[at].columns.needed)
        # The canvas in bytes and in floats; one product's result; the matrices, in two halves.
        if group and (len(group) + 1) * (15 * rows * columns + 12 * rows * crop + 8 * crop * (rows + columns)) > room:
            yield group
            group, rows, columns = [], plans[at].rows.needed, plans[at].columns.needed
        group.append(at)
    if group:
        yield group


def _resample(images: Sequence[torch.Tensor], plans: Sequence[_Plan], preprocessing: Preprocessing) -> torch.Tensor:
    """One group: uint8 (n, 3, crop, crop)."""
    n, crop, device = len(images), preprocessing.crop, images[0].device
    rows, columns = max(plan.rows.needed for plan in plans), max(plan.columns.needed for plan in plans)
    # Channels lie between rows and columns, so that each of the two products is one.
    canvas = torch.zeros((n, rows, 3, columns), dtype=torch.uint8, device=device)
    for at, (image, plan) in enumerate(zip(images, plans, strict=True)):
        part = image[:, plan.part[0], plan.part[1]][:, plan.rows.begin : plan.rows.end, plan.columns.begin : plan.columns.end]
        canvas[at, : plan.rows.needed, :, : plan.columns.needed].copy_(part.transpose(0, 1))
    pixels = canvas.to(torch.float32) if preprocessing.color == "RGB" else grey(canvas, 2).to(torch.float32)
    channels = pixels.shape[2]
    filter_ = _FILTERS[preprocessing.interpolation]
    wide = _matrices([plan.columns for plan in plans], crop, columns, filter_, device)
    high = _matrices([plan.rows for plan in plans], crop, rows, filter_, device)
    pixels = pixels.view(n, rows * channels, columns)
    pixels = _rounded(torch.bmm(pixels, wide.coarse.mT).baddbmm_(pixels, wide.fine.mT)).view(n, rows, channels * crop)
    pixels = _rounded(torch.bmm(high.coarse, pixels).baddbmm_(high.fine, pixels)).view(n, crop, channels, crop)
    return pixels.transpose(1, 2).expand(-1, 3, -1, -1).to(torch.uint8, memory_format=torch.contiguous_format)


def _rounded(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.add_(0.5).floor_().clamp_(0, 255)


class _Matrices(NamedTuple):
    """float32 (n, crop, `length`) each, to be added.

    Neither has more than eleven significant bits, so that products are right where float32 is computed as TF32, too.
    """

    coarse: torch.Tensor
    fine: torch.Tensor


def _matrices(sides: Sequence[_Side], crop: int, length: int, filter_: _Filter, device: torch.device) -> _Matrices:
    """A row for each new pixel, and a column for each old one from `begin` on."""
    size, scaled, first, begin, _ = torch.tensor(sides, dtype=torch.float64).to(device).unbind(1)
    steepest = max(max(side.size / side.scaled, 1.0) for side in sides)
    most = int(2 * filter_.reach * steepest) + 2
    starts, weights = _weights(size, scaled, first[:, None] + torch.arange(crop, device=device), most, filter_)
    # How finely weights are rounded hangs on the largest one of the side, which is likely one at an edge, where others are cut off.
    _, edge = _weights(size, scaled, torch.arange(2, device=device).expand(len(sides), -1), most, filter_)
    whole = torch.maximum(weights.amax((1, 2)), edge.amax((1, 2)))
    bits = ((32767.5 / whole).log2().ceil() - 1).clamp(0, 22)
    unit = torch.exp2(bits)[:, None, None]
    numbers = (weights.abs() * unit + 0.5).floor().copysign(weights)
    coarse = (numbers / 32).round() * 32
    columns = (starts - begin[:, None].long())[..., None] + torch.arange(most, device=device)
    return _Matrices(*(_spread(of / unit, columns, length) for of in (coarse, numbers - coarse)))


def _weights(
    size: torch.Tensor, scaled: torch.Tensor, rows: torch.Tensor, most: int, filter_: _Filter
) -> tuple[torch.Tensor, torch.Tensor]:
    """For new pixels (n, k): the first old one that each is made of, and float64 weights (n, k, `most`) of that and those behind it."""
    scale = (size / scaled)[:, None]
    stretch = scale.clamp(min=1.0)
    center = scale * (rows + 0.5)
    start = (center - filter_.reach * stretch + 0.5).long().clamp(min=0)
    end = torch.minimum((center + filter_.reach * stretch + 0.5).long(), size.long()[:, None])
    at = start[..., None] + torch.arange(most, device=size.device)
    weights = filter_.weight(((at - center[..., None] + 0.5) / stretch[..., None]).abs())
    weights = torch.where(at < end[..., None], weights, 0.0)
    return start, weights / weights.sum(-1, keepdim=True)


def _spread(weights: torch.Tensor, columns: torch.Tensor, length: int) -> torch.Tensor:
    n, rows, most = weights.shape
    # Zeros behind the last one that counts may lie beyond the end.
    matrix = torch.zeros((n, rows, length + most), dtype=torch.float32, device=weights.device)
    return matrix.scatter_(2, columns, weights.to(torch.float32))[..., :length]
