"""Which JPEG files a device may decode, told by their headers alone.

A device's decoder (nvJPEG) knows fewer kinds of JPEG than those of `thanoproxy.images.decode`, turns no image as EXIF says, and tells less
of what is wrong with one.  So it gets what nearly all photos are: baseline, eight bits, YCbCr or grey, interleaved, each marker where ITU
T.81 wants it, and an end.  Whatever is unusual about a file, or depends on who reads it, is `decode`'s.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

__all__ = ["LARGEST_BYTES", "LARGEST_PIXELS", "PlainJpeg", "plain_jpeg"]

LARGEST_BYTES = 4 * 1024 * 1024
LARGEST_PIXELS = 16_000_000
"""Of one image: many of them are in memory at once, encoded while they wait, and then decoded."""


@dataclass(frozen=True)
class PlainJpeg:
    """A file that a device may decode.  Sizes in pixels, before the turn that `orientation` (EXIF's, 1 to 8) asks for."""

    data: bytes
    width: int
    height: int
    orientation: int
    exif: tuple[int, int]
    """Where the segment with the orientation begins and ends; both 0 if there is none."""

    @property
    def pixels(self) -> int:
        return self.width * self.height

    def without_exif(self) -> bytearray:
        """The file for a decoder that shall not turn it itself, whether or not it would."""
        begin, end = self.exif
        return bytearray(self.data) if not end else bytearray(b"".join((self.data[:begin], self.data[end:])))


def plain_jpeg(data: bytes) -> PlainJpeg | None:
    """`data`, if it is such a file; else None, also for what is none at all."""
    # An image cut short has no end; what follows it may be another image, or anything.
    if len(data) > LARGEST_BYTES or not data.startswith(b"\xff\xd8\xff") or not data.endswith(b"\xff\xd9"):
        return None
    try:
        return _Walk(data).to_the_scan()
    except (struct.error, IndexError, _Unusual):
        return None


class _Unusual(Exception):
    """Nothing that a device should see."""


# What may stand between the start of the image and its scan (ITU T.81, table B.1).
_SOF0, _DHT, _SOS, _DQT, _DRI, _COM = 0xC0, 0xC4, 0xDA, 0xDB, 0xDD, 0xFE
_APP0, _APP1, _APP2, _APP14, _APP15 = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF

# Component numbers and sampling factors: grey, and YCbCr with colours at full size, of half the width, of half of both.
_GREY = {((1, 0x11),)}
_COLORS = {((1, luma), (2, 0x11), (3, 0x11)) for luma in (0x11, 0x21, 0x22)}


class _Walk:
    """From marker to marker, and what was found on the way."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._frame: tuple[int, int, int] | None = None
        self._tables: set[int] = set()
        self._adobe: int | None = None
        self._exif = (0, 0)
        self._orientation = 1

    def to_the_scan(self) -> PlainJpeg:
        data, at = self._data, 2
        while True:
            marker, length = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
            end = at + 2 + length
            if data[at] != 0xFF or length < 2 or end > len(data):
                raise _Unusual
            if marker == _SOS:
                return self._scan(at + 4)
            self._segment(marker, at, end)
            at = end

    def _segment(self, marker: int, at: int, end: int) -> None:
        begin = at + 4
        if marker == _SOF0 and self._frame is None:
            self._frame = self._read_frame(begin, end)
        elif marker in (_DHT, _DQT):
            self._tables.add(marker)
        elif marker == _APP1:
            self._application_1(at, begin, end)
        elif marker == _APP2 and self._data.startswith(b"MPF\0", begin):
            raise _Unusual  # several images in one file
        elif marker == _APP14 and self._data.startswith(b"Adobe", begin):
            self._adobe = self._data[begin + 11]
        elif marker not in (_DRI, _COM) and not _APP0 <= marker <= _APP15:
            raise _Unusual

    def _read_frame(self, begin: int, end: int) -> tuple[int, int, int]:
        precision, height, width, count = struct.unpack_from(">BHHB", self._data, begin)
        components = tuple(self._data[at : at + 2] for at in range(begin + 6, begin + 6 + 3 * count, 3))
        known = tuple((number, factors) for number, factors in components) in _GREY | _COLORS
        if not known or precision != 8 or end != begin + 6 + 3 * count or not 0 < width * height <= LARGEST_PIXELS:
            raise _Unusual
        return width, height, count

    def _application_1(self, at: int, begin: int, end: int) -> None:
        if not self._data.startswith(b"Exif\0\0", begin):
            # Some read XMP's orientation where EXIF has none.
            if b"Orientation" in self._data[begin:end]:
                raise _Unusual
            return
        if self._exif != (0, 0):
            raise _Unusual
        self._exif, self._orientation = (at, end), _orientation(self._data[begin + 6 : end])

    def _scan(self, begin: int) -> PlainJpeg:
        if self._frame is None or self._tables != {_DHT, _DQT}:
            raise _Unusual
        width, height, count = self._frame
        # Of three components that are no YCbCr Adobe's marker says so; what it says beside JFIF's is one reader's word against another's.
        if self._data[begin] != count or (count == 3 and self._adobe not in (None, 1)):
            raise _Unusual
        return PlainJpeg(self._data, width, height, self._orientation, self._exif)


def _orientation(tiff: bytes) -> int:
    """Tag 274 of the first directory (TIFF 6.0); 1 where there is none.  Raises where readers would differ."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        raise _Unusual
    at: int = struct.unpack_from(order + "I", tiff, 4)[0]
    found = []
    for entry in range(struct.unpack_from(order + "H", tiff, at)[0]):
        tag, kind, count, value = struct.unpack_from(order + "HHIH", tiff, at + 2 + 12 * entry)
        if tag == 274:
            found.append((kind, count, value))
    if not found:
        return 1
    if len(found) > 1 or found[0][:2] != (3, 1) or not 1 <= found[0][2] <= 8:  # one SHORT
        raise _Unusual
    return int(found[0][2])
