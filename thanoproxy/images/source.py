"""What every place that images come from can do, and the choice among them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from thanoproxy.errors import FeatureNotSupported, InvalidImage
from thanoproxy.images.stamp import ALWAYS, Stamp

__all__ = ["MAX_BYTES", "Source", "Sources", "shown", "too_large"]

MAX_BYTES = 64 * 1024 * 1024
"""The largest encoded image that is read, in bytes."""


class Source(ABC):
    """One kind of place: a folder tree, a column of bytes, a kind of URL."""

    @classmethod
    @abstractmethod
    def open(cls, image_roots: Sequence[str]) -> Self:
        """The source as an operator has configured it."""

    @abstractmethod
    def claims(self, image: str | bytes) -> bool:
        """Whether this source is the one to read `image`.  Must not touch the place itself."""

    @abstractmethod
    def read(self, image: str | bytes) -> bytes:
        """The encoded image, at most `MAX_BYTES` long.  Raises `FileUnavailable` or `InvalidImage`."""

    def identity(self, image: str | bytes) -> str | None:
        """What changes when the image does, though `image` stays the same; '' where `image` says it all, None where there is none."""
        return ""

    def stamps(self, images: Sequence[str | bytes]) -> list[Stamp | None]:
        """The same of many, for a day and not for years: a stamp may change though the image does not, and surely does if it does."""
        return [ALWAYS] * len(images)


class Sources:
    """The configured sources, in order."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = tuple(sources)

    def identity(self, image: str | bytes) -> str | None:
        """See `Source.identity`; None for what no source claims.  Raises nothing: whoever reads the image hears what is wrong."""
        return next((source.identity(image) for source in self._sources if source.claims(image)), None)

    def stamps(self, images: Sequence[str | bytes]) -> list[Stamp | None]:
        """See `Source.stamps`; None for what no source claims.  Raises nothing, as `identity`."""
        found: list[Stamp | None] = [None] * len(images)
        claimed: dict[Source, list[int]] = {source: [] for source in self._sources}
        for at, image in enumerate(images):
            for source in self._sources:
                if source.claims(image):
                    claimed[source].append(at)
                    break
        for source, places in claimed.items():
            for at, stamp in zip(places, source.stamps([images[at] for at in places]), strict=True):
                found[at] = stamp
        return found

    def read(self, image: str | bytes) -> bytes:
        """The encoded bytes of `image`.  Raises `FileUnavailable`, `InvalidImage` (empty or too large) or `FeatureNotSupported`."""
        for source in self._sources:
            if source.claims(image):
                data = source.read(image)
                break
        else:
            raise FeatureNotSupported(
                f"images cannot be read from {shown(image)}",
                hint="Give a path below an image root, a bytea column with the image itself, or a data: URL.",
            )
        if not data:
            raise InvalidImage(f"image {shown(image)} is empty")
        if len(data) > MAX_BYTES:
            raise too_large(image)
        return data


def too_large(image: str | bytes) -> InvalidImage:
    """The error for an encoded image beyond `MAX_BYTES`."""
    return InvalidImage(f"image {shown(image)} is larger than {MAX_BYTES // (1024 * 1024)} MB")


def shown(image: str | bytes) -> str:
    """`image` as an error message may show it: quoted and cut short; bytes only by their length."""
    if isinstance(image, bytes):
        return f"(bytea of {len(image)} bytes)"
    return f'"{image}"' if len(image) <= 200 else f'"{image[:200]}…"'
