"""One definition of an image's pixels, whatever it is encoded in."""

from __future__ import annotations

import contextlib
import functools

import numpy as np
import pytest
import torch
from PIL import Image

from tests.images.pictures import BLUE, RED, WHITE, blocks, encoded, noisy
from thanoproxy.errors import InvalidImage
from thanoproxy.images import decode as decode_module
from thanoproxy.images.decode import decode
from thanoproxy.images.header import FORMATS


def corners(pixels: torch.Tensor) -> list[tuple[int, ...]]:
    """The colours near the four corners: top left, top right, bottom left, bottom right."""
    _, height, width = pixels.shape
    return [tuple(pixels[:, y, x].tolist()) for y in (2, height - 3) for x in (2, width - 3)]


@functools.cache
def decoders() -> list[decode_module.Decoder | None]:
    """All that can be had here: Pillow, torchvision, and torchcodec where it is installed."""
    found: list[decode_module.Decoder | None] = [None]
    for find in decode_module.JPEG_DECODERS.values():
        with contextlib.suppress(ImportError):
            found.append(find())
    assert len(found) >= 2
    return found


def close(left: tuple[int, ...], right: tuple[int, ...], within: int = 8) -> bool:
    return all(abs(a - b) <= within for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_picture(kind: str) -> None:
    pixels = decode(encoded(blocks(), kind))
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (3, 40, 60))
    wanted = corners(decode(encoded(blocks(), "PNG")))
    assert all(close(left, right) for left, right in zip(corners(pixels), wanted, strict=True))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30, "subsampling": 2}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_pixels_do_not_depend_on_the_decoder(mode: str, options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(noisy(RED, 1, 75).convert(mode), "JPEG", **options)
    pixels = decode(data)
    for decoder in decoders():
        monkeypatch.setattr(decode_module, "_jpeg_decoder", decoder)
        assert torch.equal(pixels, decode(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "order"), [(1, (0, 1, 2, 3)), (3, (3, 2, 1, 0)), (6, (2, 0, 3, 1)), (8, (1, 3, 0, 2)), (2, (1, 0, 3, 2))]
)
def test_exif_orientation_is_applied(kind: str, orientation: int, order: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(blocks(), kind, exif=exif)
    upright = corners(decode(encoded(blocks(), "PNG")))
    for decoder in decoders():
        monkeypatch.setattr(decode_module, "_jpeg_decoder", decoder)
        turned = corners(decode(data))
        assert all(close(turned[at], upright[place]) for at, place in enumerate(order))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_that_is_none_does_no_harm(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(blocks(), kind, exif=b"Exif\0\0no TIFF at all")
    for decoder in (decode_module._jpeg_decoder, None):
        monkeypatch.setattr(decode_module, "_jpeg_decoder", decoder)
        assert torch.equal(decode(data), decode(encoded(blocks(), kind)))


def test_an_error_tells_nothing_of_the_decoders_objects() -> None:
    data = encoded(blocks(), "PNG").replace((60).to_bytes(4, "big"), (61).to_bytes(4, "big"))  # a checksum that does not fit
    with pytest.raises(InvalidImage, match="damaged, or of a kind that is not read") as problem:
        decode(data)
    assert problem.value.detail is None


def test_what_is_transparent_is_white() -> None:
    image = blocks().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    assert corners(decode(encoded(image, "PNG"))) == [WHITE] * 4
    image.putalpha(128)
    assert close(corners(decode(encoded(image, "PNG")))[0], tuple((channel + 255) // 2 for channel in RED))


def test_palettes_with_and_without_a_transparent_colour() -> None:
    palette = blocks().convert("P", palette=Image.Palette.ADAPTIVE)
    assert close(corners(decode(encoded(palette, "PNG")))[0], RED)
    red = palette.getpixel((2, 2))
    assert close(corners(decode(encoded(palette, "PNG", transparency=red)))[0], WHITE)
    assert close(corners(decode(encoded(palette, "GIF", transparency=red)))[0], WHITE)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_range(kind: str) -> None:
    levels = np.linspace(0, 65535, 256 * 4).astype(np.uint16).reshape(4, 256)
    pixels = decode(encoded(Image.fromarray(levels), kind))
    assert torch.equal(pixels[0], torch.from_numpy(np.rint(levels / 257).astype(np.uint8)))
    assert torch.equal(pixels[0], pixels[1])


def test_bilevel_grey_alpha_and_float_images() -> None:
    assert corners(decode(encoded(Image.new("1", (10, 10), 1), "PNG"))) == [WHITE] * 4
    assert corners(decode(encoded(Image.new("LA", (10, 10), (0, 0)), "PNG"))) == [WHITE] * 4
    levels = np.linspace(-2.0, 6.0, 100, dtype=np.float32).reshape(10, 10)
    pixels = decode(encoded(Image.fromarray(levels), "TIFF"))
    assert (int(pixels.min()), int(pixels.max())) == (0, 255)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (20, 20), RED), Image.new("RGB", (20, 20), BLUE)]
    assert close(corners(decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:])))[0], RED)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_short_is_an_error_that_names_the_format(kind: str) -> None:
    data = encoded(noisy(RED, 1, 200), kind)
    with pytest.raises(InvalidImage, match=f"the {kind} image is damaged"):
        decode(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("kind", FORMATS)
def test_damage_raises_nothing_but_invalid_image(kind: str) -> None:
    data = encoded(noisy(RED, 1), kind)
    random = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(data)
        for at in random.integers(0, len(data), 5):
            damaged[at] = random.integers(0, 256)
        try:
            assert decode(bytes(damaged)).shape[0] == 3
        except InvalidImage:
            continue
