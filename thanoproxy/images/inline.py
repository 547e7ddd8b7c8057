"""Images that are in the row itself: a bytea value, or text that is a data: URL (RFC 2397)."""

from __future__ import annotations

import base64
import binascii
from typing import Self
from urllib.parse import unquote_to_bytes

from thanoproxy.errors import InvalidImage
from thanoproxy.images.source import MAX_BYTES, Setup, Source, shown

__all__ = ["Bytes", "DataUrl"]


class Bytes(Source):
    """The encoded image itself."""

    @classmethod
    def open(cls, setup: Setup) -> Self:
        return cls()

    def claims(self, image: str | bytes) -> bool:
        return isinstance(image, bytes)

    def read(self, image: str | bytes) -> bytes:
        assert isinstance(image, bytes), "claimed"
        return image


class DataUrl(Source):
    """`data:[<media type>][;base64],<data>`; the media type is ignored, since the bytes say what they are."""

    @classmethod
    def open(cls, setup: Setup) -> Self:
        return cls()

    def claims(self, image: str | bytes) -> bool:
        return isinstance(image, str) and image[:5].lower() == "data:"

    def read(self, image: str | bytes) -> bytes:
        assert isinstance(image, str), "claimed"
        head, comma, payload = image[5:].partition(",")
        if not comma:
            raise InvalidImage(f"{shown(image[:40])} is no data: URL", hint="A data: URL is written data:image/png;base64,…")
        if len(payload) > 3 * MAX_BYTES:  # percent-encoding triples, base64 adds a third
            raise InvalidImage(f"a data: URL is larger than {MAX_BYTES // (1024 * 1024)} MB")
        data = unquote_to_bytes(payload)
        if not head.lower().endswith(";base64"):
            return data
        try:
            # Newlines and blanks are common in hand-made URLs; anything else outside the alphabet is damage.
            return base64.b64decode(data.translate(None, b" \t\r\n"), validate=True)
        except binascii.Error as error:
            raise InvalidImage("a data: URL holds damaged base64", detail=str(error)) from error
