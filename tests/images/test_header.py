"""Format and size are known, and limits kept, before anything decodes."""

from __future__ import annotations

import struct

import pytest
from PIL import Image

from tests.images.pictures import blocks, encoded
from thanoproxy.errors import InvalidImage
from thanoproxy.images.header import FORMATS, read_header


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (61, 40), (300, 7)])
def test_every_format_tells_its_size(kind: str, size: tuple[int, int]) -> None:
    assert read_header(encoded(blocks().resize(size), kind)) == (kind, *size)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": b"Exif\0\0" + bytes(3000), "icc_profile": bytes(70000)}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"big_tiff": False, "compression": "jpeg"}),
    ],
)
def test_variants_of_a_format(kind: str, options: dict[str, object]) -> None:
    assert read_header(encoded(blocks(), kind, **options)) == (kind, 60, 40)


def test_a_webp_with_alpha_and_one_with_frames() -> None:
    assert read_header(encoded(blocks().convert("RGBA"), "WEBP"))[1:] == (60, 40)
    assert read_header(encoded(blocks(), "WEBP", save_all=True, append_images=[blocks()]))[1:] == (60, 40)


def test_a_bmp_from_top_to_bottom() -> None:
    data = bytearray(encoded(blocks(), "BMP"))
    data[22:26] = struct.pack("<i", -40)
    assert read_header(bytes(data)) == ("BMP", 60, 40)


@pytest.mark.parametrize("data", [b"", b"GIF", b"hello, world", b"%PDF-1.7", b"<svg xmlns='http://www.w3.org/2000/svg'/>", bytes(100)])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidImage, match="no image of a known format"):
        read_header(data)


@pytest.mark.parametrize("kind", ["ICO", "PPM", "TGA", "PCX", "JPEG2000", "DDS", "ICNS"])
def test_formats_that_pillow_knows_and_we_do_not_want_are_refused(kind: str) -> None:
    with pytest.raises(InvalidImage, match="no image of a known format"):
        read_header(encoded(blocks(64, 64).convert("RGB"), kind))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_header_that_is_cut_short_is_damage_and_nothing_worse(kind: str) -> None:
    data = encoded(blocks(), kind)
    for length in range(12, min(len(data), 600)):
        try:
            assert read_header(data[:length])[0] == kind
        except InvalidImage:
            continue


@pytest.mark.parametrize("kind", FORMATS)
def test_hostile_bytes_raise_nothing_but_invalid_image(kind: str) -> None:
    data = encoded(blocks(), kind)
    for at in range(min(len(data), 300)):
        for value in (0, 0x7F, 0xFF):
            damaged = data[:at] + bytes([value]) + data[at + 1 :]
            try:
                read_header(damaged)
            except InvalidImage:
                continue


def test_a_bomb_is_refused_by_its_header() -> None:
    data = encoded(Image.new("1", (20000, 20000)), "PNG")
    assert len(data) < 100_000
    with pytest.raises(InvalidImage, match="20000x20000 pixels; the limit is 64 megapixels"):
        read_header(data)
    png = bytearray(encoded(blocks(), "PNG"))
    png[16:24] = struct.pack(">II", 0xFFFFFFFF, 0xFFFFFFFF)
    with pytest.raises(InvalidImage, match="the limit is"):
        read_header(bytes(png))
