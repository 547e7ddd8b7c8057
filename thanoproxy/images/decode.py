"""From an encoded image to its pixels: the one definition that training and prediction share.

The pixels of an image are its first frame as the eye is meant to see it: turned as EXIF says, in RGB, eight bits a channel,
what is transparent composited on white.  JPEG goes through torchcodec where that is installed, else through torchvision, which takes
half of Pillow's time: all three sit on libjpeg-turbo and give the same bits.  All other formats are Pillow's, which handles palettes,
CMYK, 16 bits and alpha. Sixteen-bit grey is scaled by 1/257; wider or floating-point samples are stretched from their own minimum and
maximum, since their files do not say what white is.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from thanoproxy.errors import InvalidImage
from thanoproxy.images.header import MAX_PIXELS, Header, read_header

__all__ = ["JPEG_DECODERS", "decode", "jpeg_decoder_name"]

Decoder = Callable[[torch.Tensor], torch.Tensor]


def _torchcodec() -> Decoder:
    codec = importlib.import_module("torchcodec.decoders")
    return lambda data: codec.decode_jpeg(data, mode=codec.ImageReadMode.RGB)


def _torchvision() -> Decoder:
    # Its operators alone: the package would have each decode process import Dynamo, and its `decode_jpeg` warns from 0.29 on.
    found = importlib.util.find_spec("torchvision")
    assert found is not None, "a dependency"
    assert found.origin is not None, "a package with code"
    [library] = Path(found.origin).parent.glob("image*.so")  # "_stable" stands in its name since 0.29
    torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    rgb = 3  # torchvision.io.ImageReadMode.RGB
    return lambda data: torch.ops.image.decode_jpeg(data, rgb, True)


JPEG_DECODERS: dict[str, Callable[[], Decoder]] = {"torchcodec": _torchcodec, "torchvision": _torchvision}
"""Of bytes, uint8, to pixels, turned as EXIF says; best first."""


def _find_jpeg_decoder() -> tuple[str, Decoder | None]:
    for name, find in JPEG_DECODERS.items():
        try:
            return name, find()
        except (ImportError, OSError, RuntimeError, ValueError):  # not installed, or built for another torch
            continue
    return "Pillow", None


jpeg_decoder_name, _jpeg_decoder = _find_jpeg_decoder()


def decode(data: bytes) -> torch.Tensor:
    """The pixels of an encoded image: uint8, shape (3, height, width), RGB.

    Raises `InvalidImage` for what is no image, is damaged or cut short, or has more than `MAX_PIXELS` pixels.
    """
    header = read_header(data)
    if header.format == "JPEG" and _jpeg_decoder is not None:
        try:
            return _jpeg_decoder(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        except (RuntimeError, ValueError):
            pass  # Pillow has the last word, so that the verdict is the same whoever else there is
    return _decode_with_pillow(data, header)


def _decode_with_pillow(data: bytes, header: Header) -> torch.Tensor:
    try:
        with Image.open(io.BytesIO(data), formats=[header.format]) as image:
            # The header's own reader has checked this; a decoder that reads it otherwise must not get further.
            assert image.width * image.height <= MAX_PIXELS, f"{image.width}x{image.height} pixels"
            pixels = np.array(_to_rgb(_turned(image)))
    except (MemoryError, Image.DecompressionBombError) as error:
        raise InvalidImage(f"the {header.format} image is too large to decode") from error
    except UnidentifiedImageError as error:  # its text has nothing but the address of an object
        raise InvalidImage(f"the {header.format} image is damaged, or of a kind that is not read") from error
    except Exception as error:  # Pillow's plugins raise whatever their parsing trips over
        raise InvalidImage(f"the {header.format} image is damaged", detail=str(error) or type(error).__name__) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _turned(image: Image.Image) -> Image.Image:
    """As EXIF says; what is no EXIF says nothing, as everywhere else, and the image is no worse for it."""
    try:
        image.getexif()
    except Exception:  # whatever its parser trips over
        return image
    return ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image).astype(np.float32) / 257)
    if image.mode in ("I", "F"):
        return _grey(_stretched(np.asarray(image).astype(np.float64)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _grey(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8)).convert("RGB")


def _stretched(levels: np.ndarray) -> np.ndarray:
    levels = np.nan_to_num(levels)
    low, high = float(levels.min()), float(levels.max())
    if low >= 0 and high <= 255:
        return levels
    if low >= 0 and high <= 65535 and np.array_equal(levels, np.rint(levels)):
        return levels / 257  # Pillow opens 16-bit grey of some files as 32-bit integers
    return (levels - low) * (255 / max(high - low, 1e-12))
