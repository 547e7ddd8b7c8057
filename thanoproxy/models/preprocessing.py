"""From decoded pixels to what a network takes, the same in training and in prediction.

    decoded (3, h, w)  --scale-->  scaled (3, h', w'), short side `resize`  --crop-->  (3, crop, crop)  --normalize-->  float

All but the last step is uint8 and is done on loader threads; the last is done a batch at a time on the device.  An artifact's
manifest carries the `Preprocessing` it was trained with.
"""

from __future__ import annotations

import functools
from typing import Literal

import msgspec
import torch
from torch.nn import functional

__all__ = [
    "MAX_ASPECT",
    "RAW",
    "Preprocessing",
    "center_crop",
    "channel_scales",
    "grey",
    "kept",
    "normalize",
    "normalize_by",
    "scale",
    "scaled_size",
]

MAX_ASPECT = 4
"""An image longer than this many times its short side is cut to its middle before it is scaled, so that a sliver of 1x60000
pixels does not become gigabytes.  The square in the middle, which is what a network sees, is not touched by that."""


class Preprocessing(msgspec.Struct, frozen=True, kw_only=True):
    """How an image becomes a network's input.  Sizes in pixels; mean and std of channels in 0..1."""

    resize: int
    crop: int
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    color: Literal["RGB", "GRAY"] = "RGB"


RAW = Preprocessing(resize=0, crop=0, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
"""Mean and deviation with which pixels stay as they are."""


def scale(pixels: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """uint8 (3, h, w) -> uint8 with the short side `resize` long, antialiased, the aspect kept; GRAY as three equal channels."""
    if preprocessing.color == "GRAY":
        pixels = grey(pixels, 0).expand(3, -1, -1)
    rows, columns = kept(*pixels.shape[-2:])
    pixels = pixels[:, rows, columns]
    height, width = pixels.shape[-2:]
    size = scaled_size(height, width, preprocessing)
    if size == [height, width]:
        return pixels
    return functional.interpolate(pixels[None], size, mode=preprocessing.interpolation, antialias=True)[0]


def center_crop(scaled: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """The square of side `crop` in the middle, as torchvision's CenterCrop cuts it."""
    height, width = scaled.shape[-2:]
    crop = preprocessing.crop
    top, left = round((height - crop) / 2), round((width - crop) / 2)
    return scaled[:, top : top + crop, left : left + crop].contiguous()


def normalize(batch: torch.Tensor, preprocessing: Preprocessing, dtype: torch.dtype) -> torch.Tensor:
    """uint8 (n, 3, crop, crop) -> `dtype`, zero mean and unit deviation per channel, channels last, on the batch's own device."""
    if (preprocessing.mean, preprocessing.std) == (RAW.mean, RAW.std):
        return batch.to(torch.float32, memory_format=torch.channels_last).to(dtype)
    return normalize_by(batch, *channel_scales(preprocessing.mean, preprocessing.std, batch.device), dtype)


def normalize_by(batch: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The same by tensors that are there already: see `channel_scales`."""
    return batch.to(torch.float32, memory_format=torch.channels_last).sub_(mean).div_(std).to(dtype)


@functools.lru_cache(maxsize=64)
def channel_scales(
    mean: tuple[float, float, float], std: tuple[float, float, float], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of pixels (0 to 255), (1, 3, 1, 1) each.

    Kept, because a copy to a GPU from memory that is not pinned waits for all that it has been told to do before.  It is the last step,
    because that wait is also what makes them fit for every stream.
    """
    with torch.inference_mode(False):  # for training, too, whoever asks first
        scales = ((torch.tensor(of).view(1, 3, 1, 1) * 255).to(device) for of in (mean, std))
        return next(scales), next(scales)


def grey(pixels: torch.Tensor, channels: int) -> torch.Tensor:
    """uint8 with three channels in dimension `channels` -> uint8 with one there."""
    # The weights of ITU-R 601, as Pillow and torchvision use them.
    weights = torch.tensor([0.299, 0.587, 0.114]).to(pixels.device).view(3, *[1] * (pixels.dim() - 1 - channels))
    return (pixels.to(torch.float32) * weights).sum(channels, keepdim=True).round_().clamp_(0, 255).to(torch.uint8)


def kept(height: int, width: int) -> tuple[slice, slice]:
    """The rows and columns of an image that are left when it is cut to `MAX_ASPECT`."""
    longest = min(height, width) * MAX_ASPECT
    top, left = (max(side - longest, 0) // 2 for side in (height, width))
    return slice(top, top + min(height, longest)), slice(left, left + min(width, longest))


def scaled_size(height: int, width: int, preprocessing: Preprocessing) -> list[int]:
    """Height and width once the short side is `resize` long."""
    return [preprocessing.resize * side // min(height, width) for side in (height, width)]
