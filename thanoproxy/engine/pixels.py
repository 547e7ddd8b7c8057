"""Reading one image up to the point where a batch is made of it: what runs on loader threads, in training and in prediction."""

from __future__ import annotations

import hashlib
import random
import threading
from typing import Protocol

import torch
from torch.nn import functional

from thanoproxy.errors import InvalidImage, NullNotAllowed, ThanoError
from thanoproxy.images import Sources
from thanoproxy.images.decode import decode
from thanoproxy.images.jpeg import PlainJpeg, plain_jpeg
from thanoproxy.images.loader import Steps
from thanoproxy.images.source import shown
from thanoproxy.models.preprocessing import Preprocessing, center_crop, scale

__all__ = [
    "Decoder",
    "decode_elsewhere",
    "decode_scaled",
    "digest",
    "random_crop",
    "read_cropped",
    "read_encoded",
    "read_plain",
    "read_scaled",
]


class Decoder(Protocol):
    """Whoever does the work of the functions below in another process."""

    def cropped(self, image: str | bytes, row: int, preprocessing: Preprocessing) -> torch.Tensor:
        """As `read_cropped`."""

    def scaled(self, encoded: bytes, preprocessing: Preprocessing) -> torch.Tensor:
        """As `decode_scaled`."""


_thread = threading.local()


def decode_elsewhere(decoder: Decoder) -> None:
    """From now on, what the calling thread is asked to read `decoder` does."""
    _thread.decoder = decoder


def read_encoded(sources: Sources, image: str | bytes | None, row: int) -> Steps[bytes]:
    """The encoded bytes of `image`, which is row `row`; errors say so.  Raises `NullNotAllowed` for None."""
    if image is None:
        raise NullNotAllowed(f"the image of row {row + 1} is NULL", row=row)
    try:
        return (yield from sources.load(image))
    except ThanoError as error:
        error.row = row
        raise


def read_scaled(encoded: bytes, image: str | bytes | None, row: int, preprocessing: Preprocessing) -> torch.Tensor:
    """The pixels of an encoded image, scaled but not yet cropped: uint8 (3, h, w)."""
    decoder: Decoder | None = getattr(_thread, "decoder", None)
    try:
        return decode_scaled(encoded, preprocessing) if decoder is None else decoder.scaled(encoded, preprocessing)
    except InvalidImage as error:
        name = shown(image) if image is not None else "NULL"
        raise InvalidImage(f"image {name}: {error.message}", detail=error.detail, hint=error.hint, row=row) from error


def decode_scaled(encoded: bytes, preprocessing: Preprocessing) -> torch.Tensor:
    """The same, where nobody knows what the image is called.  Raises `InvalidImage`."""
    return scale(decode(encoded), preprocessing)


def read_cropped(sources: Sources, image: str | bytes, row: int, preprocessing: Preprocessing) -> Steps[torch.Tensor]:
    """All of it, for prediction: uint8 (3, crop, crop)."""
    decoder: Decoder | None = getattr(_thread, "decoder", None)
    if decoder is not None and not sources.distant(image):
        return decoder.cropped(image, row, preprocessing)
    encoded = yield from read_encoded(sources, image, row)
    return center_crop(read_scaled(encoded, image, row, preprocessing), preprocessing)


def read_plain(sources: Sources, image: str | bytes, row: int, preprocessing: Preprocessing) -> Steps[torch.Tensor | PlainJpeg]:
    """The same, but what a device may decode as it is.  A file is read here, whoever decodes it."""
    encoded = yield from read_encoded(sources, image, row)
    jpeg = plain_jpeg(encoded)
    return center_crop(read_scaled(encoded, image, row, preprocessing), preprocessing) if jpeg is None else jpeg


def digest(encoded: bytes) -> bytes:
    """16 bytes that tell two images apart."""
    return hashlib.blake2b(encoded, digest_size=16).digest()


def random_crop(scaled: torch.Tensor, preprocessing: Preprocessing, seed: int, epoch: int, row: int) -> torch.Tensor:
    """A random part (half to all of the area, 3:4 to 4:3) scaled to (3, crop, crop), mirrored every other time.

    The numbers are drawn from (seed, epoch, row) alone, so they do not depend on threads or on the order of rows.
    """
    draw = random.Random(f"{seed}:{epoch}:{row}")  # noqa: S311 - augmentation, not secrets
    height, width = scaled.shape[-2:]
    for _ in range(10):
        area = height * width * draw.uniform(0.5, 1.0)
        aspect = (4 / 3) ** draw.uniform(-1.0, 1.0)
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            break
    else:
        w = h = min(height, width)
    top, left = draw.randint(0, height - h), draw.randint(0, width - w)
    size = [preprocessing.crop, preprocessing.crop]
    part = scaled[None, :, top : top + h, left : left + w]
    crop = functional.interpolate(part, size, mode=preprocessing.interpolation, antialias=True)[0]
    return crop.flip(-1) if draw.random() < 0.5 else crop
