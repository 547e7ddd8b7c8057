"""What an encoded image says of itself before anything decodes it: its format and its size.

Only formats in `FORMATS` are let through to a decoder, and only after their own header has given dimensions within
`MAX_PIXELS`; a decompression bomb is refused for the price of reading a few bytes.  Each reader below knows just enough of its
format to find width and height.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from thanoproxy.errors import InvalidImage

__all__ = ["FORMATS", "MAX_PIXELS", "Header", "read_header"]

MAX_PIXELS = 64_000_000
"""The largest image that is decoded, in pixels."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What is accepted, by Pillow's names; recognised by their first bytes, never by a file's name."""


class Header(NamedTuple):
    """Format and size in pixels, before any rotation that EXIF asks for."""

    format: str
    width: int
    height: int


def read_header(data: bytes) -> Header:
    """The header of an encoded image.  Raises `InvalidImage`: no format of ours, no dimensions, or too many pixels."""
    kind = _kind(data)
    if kind is None:
        raise InvalidImage("the data is no image of a known format", hint="Accepted are JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF.")
    try:
        width, height = _SIZES[kind](data)
    except (struct.error, IndexError, ValueError):
        raise InvalidImage(f"the {kind} image is damaged: its header gives no size") from None
    if width <= 0 or height <= 0:
        raise InvalidImage(f"the {kind} image is damaged: its header says {width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise InvalidImage(f"the {kind} image has {width}x{height} pixels; the limit is {MAX_PIXELS // 1_000_000} megapixels")
    return Header(kind, width, height)


def _kind(data: bytes) -> str | None:
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:2] == b"BM":
        return "BMP"
    if data[:4] in (b"II*\0", b"MM\0*"):
        return "TIFF"
    if data[4:8] == b"ftyp" and (brands := _brands(data)) and (b"avif" in brands or b"avis" in brands):
        return "AVIF"
    return None


def _brands(data: bytes) -> list[bytes]:
    size = int.from_bytes(data[:4], "big")
    return [data[at : at + 4] for at in range(8, min(size, len(data), 256), 4)]


def _jpeg(data: bytes) -> tuple[int, int]:
    at = 2
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:  # fill bytes (ITU T.81, B.1.1.2)
            at += 1
        if data[at] != 0xFF:
            raise ValueError
        marker = data[at + 1]
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # these stand alone
            at += 2
            continue
        if marker in (0xD9, 0xDA):  # end, or entropy-coded data, before any frame header
            raise ValueError
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # SOFn, but for DHT, JPG, DAC
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]


def _png(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR":
        raise ValueError
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _webp(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError


def _gif(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _bmp(data: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", data, 14)[0] == 12:  # OS/2 BITMAPCOREHEADER
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return width, abs(height)  # a negative height is a bitmap from top to bottom


def _tiff(data: bytes) -> tuple[int, int]:
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack_from(order + "I", data, 4)[0]
    size = {}
    for entry in range(struct.unpack_from(order + "H", data, at)[0]):
        tag, kind, _count = struct.unpack_from(order + "HHI", data, at + 2 + 12 * entry)
        if tag in (256, 257):  # ImageWidth, ImageLength: SHORT (3) or LONG (4)
            size[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, at + 10 + 12 * entry)[0]
    if len(size) != 2:
        raise ValueError
    return size[256], size[257]


def _avif(data: bytes) -> tuple[int, int]:
    # Every `ispe` property (ISO/IEC 23008-12, 6.5.3) is an image or a tile of one; the largest is what a decoder may allocate.
    sizes = [
        struct.unpack_from(">II", data, at + 4)
        for kind, at, size in _boxes(data, 0, len(data))
        if kind == b"meta"
        for kind, at, size in _boxes(data, at + 4, at + size)  # after version and flags
        if kind == b"iprp"
        for kind, at, size in _boxes(data, at, at + size)
        if kind == b"ipco"
        for kind, at, size in _boxes(data, at, at + size)
        if kind == b"ispe"
    ]
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return width, height


def _boxes(data: bytes, at: int, end: int) -> list[tuple[bytes, int, int]]:
    """The ISO boxes between two offsets: type, where the content starts, the content's length."""
    found = []
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            size, head = struct.unpack_from(">Q", data, at + 8)[0], 16
        elif size == 0:
            size = end - at
        if size < head:
            raise ValueError
        found.append((kind, at + head, size - head))
        at += size
    return found


_SIZES: dict[str, Callable[[bytes], tuple[int, int]]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "GIF": _gif,
    "BMP": _bmp,
    "TIFF": _tiff,
    "AVIF": _avif,
}
