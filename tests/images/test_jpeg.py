"""Which JPEG files a device may decode: nearly all photos, and nothing about which two readers could differ."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.images.pictures import RED, blocks, encoded, noisy
from thanoproxy.errors import InvalidImage
from thanoproxy.images.decode import decode
from thanoproxy.images.header import read_header
from thanoproxy.images.jpeg import LARGEST_BYTES, LARGEST_PIXELS, plain_jpeg

PHOTO = encoded(noisy(RED, 1, 90).crop((0, 0, 90, 60)), "JPEG")


def with_orientation(value: int, **options: object) -> bytes:
    exif = Image.Exif()
    exif[274] = value
    return encoded(blocks(), "JPEG", exif=exif, **options)


def with_segment(marker: int, body: bytes, data: bytes = PHOTO) -> bytes:
    """One more, right at the beginning."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


def changed(data: bytes, marker: int, offset: int, value: bytes) -> bytes:
    """With other bytes in a segment, `offset` behind its length."""
    at = data.index(bytes((0xFF, marker))) + 4 + offset
    return data[:at] + value + data[at + len(value) :]


def exif_of(*entries: bytes, order: str = "<") -> bytes:
    header = b"II*\0" if order == "<" else b"MM\0*"
    return b"Exif\0\0" + header + struct.pack(order + "IH", 8, len(entries)) + b"".join(entries) + bytes(4)


def entry(tag: int, kind: int, count: int, value: int, order: str = "<") -> bytes:
    return struct.pack(order + "HHIHH", tag, kind, count, value, 0)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"quality": 20}),
        ("RGB", {"subsampling": 0}),
        ("RGB", {"subsampling": 1}),
        ("RGB", {"subsampling": 2}),
        ("RGB", {"optimize": True}),
        ("L", {"comment": b"hello"}),
    ],
)
def test_photos(mode: str, options: dict[str, object]) -> None:
    found = plain_jpeg(encoded(noisy(RED, 1, 90).crop((0, 0, 90, 60)).convert(mode), "JPEG", **options))
    assert found is not None
    assert (found.width, found.height, found.pixels, found.orientation) == (90, 60, 5400, 1)
    assert bytes(found.without_exif()) == found.data


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_turn_that_exif_asks_for(orientation: int) -> None:
    found = plain_jpeg(with_orientation(orientation))
    assert found is not None
    assert (found.width, found.height, found.orientation) == (60, 40, orientation)
    assert np.array_equal(decode(bytes(found.without_exif())), decode(encoded(blocks(), "JPEG")))


@pytest.mark.parametrize(
    ("exif", "orientation"),
    [
        (exif_of(entry(274, 3, 1, 6)), 6),
        (exif_of(entry(271, 2, 4, 0, ">"), entry(274, 3, 1, 8, ">"), order=">"), 8),
        (exif_of(entry(271, 2, 4, 0)), 1),
        (exif_of(entry(274, 3, 1, 0)), None),
        (exif_of(entry(274, 3, 1, 9)), None),
        (exif_of(entry(274, 4, 1, 6)), None),
        (exif_of(entry(274, 3, 2, 6)), None),
        (exif_of(entry(274, 3, 1, 6), entry(274, 3, 1, 1)), None),
        (exif_of(entry(274, 3, 1, 6))[:-8], None),
        (b"Exif\0\0neither", None),
        (b"Exif\0\0", None),
        (b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='6'/>", None),
        (b"http://ns.adobe.com/xap/1.0/\0<x/>", 1),
    ],
)
def test_what_exif_says_must_be_clear(exif: bytes, orientation: int | None) -> None:
    found = plain_jpeg(with_segment(0xE1, exif))
    assert (found and found.orientation) == orientation


SOF, SOS, DQT, DHT = 0xC0, 0xDA, 0xDB, 0xC4
UNUSUAL = {
    "progressive": encoded(blocks(), "JPEG", progressive=True),
    "grey in blocks of four": encoded(blocks().convert("L"), "JPEG", subsampling=2),
    "CMYK": encoded(blocks().convert("CMYK"), "JPEG"),
    "RGB in place of YCbCr": encoded(blocks(), "JPEG", keep_rgb=True),
    "Adobe says RGB": with_segment(0xEE, b"Adobe\0\x64\0\0\0\0\0"),
    "twelve bits": changed(PHOTO, SOF, 0, b"\x0c"),
    "no height": changed(PHOTO, SOF, 1, b"\0\0"),
    "a bomb": changed(PHOTO, SOF, 1, struct.pack(">HH", 65500, 65500)),
    "other numbers": changed(PHOTO, SOF, 6, b"R"),
    "other factors": changed(PHOTO, SOF, 7, b"\x41"),
    "two frames": with_segment(SOF, PHOTO[PHOTO.index(b"\xff\xc0") + 4 :][:15]),
    "scans of one component": changed(PHOTO, SOS, 0, b"\x01"),
    "no tables": PHOTO.replace(b"\xff\xdb", b"\xff\xfe"),
    "arithmetic coding": PHOTO.replace(b"\xff\xc0", b"\xff\xc9"),
    "several pictures": with_segment(0xE2, b"MPF\0"),
    "two orientations": with_segment(0xE1, exif_of(entry(274, 3, 1, 6)), with_orientation(1)),
    "fill bytes": PHOTO[:2] + b"\xff" + PHOTO[2:],
    "something behind it": PHOTO + b"\0",
    "cut short": PHOTO[:-20],
    "cut in the header": PHOTO[:300],
    "a header and an end": PHOTO[:40] + b"\xff\xd9",
    "only an end": b"\xff\xd8\xff\xd9",
    "a PNG": encoded(blocks(), "PNG"),
    "nothing": b"",
    "many bytes": PHOTO[:-2] + bytes(LARGEST_BYTES) + b"\xff\xd9",
}


@pytest.mark.parametrize("data", UNUSUAL.values(), ids=UNUSUAL)
def test_whatever_is_unusual_is_for_the_cpu(data: bytes) -> None:
    assert plain_jpeg(data) is None


def test_adobe_may_say_what_is_so() -> None:
    assert plain_jpeg(with_segment(0xEE, b"Adobe\0\x64\0\0\0\0\x01")) is not None


def test_large_images_are_for_the_cpu() -> None:
    side = int(LARGEST_PIXELS**0.5)
    assert plain_jpeg(changed(PHOTO, SOF, 1, struct.pack(">HH", side, side))) is not None
    assert plain_jpeg(changed(PHOTO, SOF, 1, struct.pack(">HH", side, side + 1))) is None


def test_what_cannot_be_decoded_is_mostly_for_the_cpu_and_nothing_raises() -> None:
    """What it says may be wrong only behind the header, where no header tells it."""
    random = np.random.default_rng(0)
    header = PHOTO.index(b"\xff\xda")
    for _ in range(300):
        damaged = bytearray(PHOTO)
        for at in random.integers(0, header, 3):
            damaged[at] = random.integers(0, 256)
        found = plain_jpeg(bytes(damaged))
        if found is not None:
            try:
                assert decode(bytes(damaged)).shape[1:] in {(found.height, found.width), (found.width, found.height)}
            except InvalidImage:
                continue


def test_photos_of_cats_and_dogs_are_plain(test_data: Path) -> None:
    for path in sorted((test_data / "data" / "cat_and_dog").rglob("*.jpg"))[:50]:
        data = path.read_bytes()
        found, header = plain_jpeg(data), read_header(data)
        assert found is not None, path
        assert (found.width, found.height) == (header.width, header.height)
