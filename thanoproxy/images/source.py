"""What every place that images come from can do, and the choice among them."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple, Self

from thanoproxy.errors import FeatureNotSupported, FileFailure, FileUnavailable, InternalError, InvalidImage, ThanoError
from thanoproxy.images.loader import Steps, finish
from thanoproxy.images.reader import Reader
from thanoproxy.images.settings import RemoteSettings
from thanoproxy.images.stamp import ALWAYS, Stamp

__all__ = ["MAX_BYTES", "Distant", "Setup", "Source", "Sources", "not_arrived", "shown", "too_large", "unavailable"]

MAX_BYTES = 64 * 1024 * 1024
"""The largest encoded image that is read, in bytes."""

# What is behind a question mark may be a signature, and whoever has that may read what the URL names.
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+://)(?P<user>[^/?#]*@)?(?P<path>[^?#]*)(?P<query>.*)", re.DOTALL)


class Setup(NamedTuple):
    """What a source is made from: the image roots, what may be read over the network, and what reads there."""

    roots: tuple[str, ...]
    remote: RemoteSettings
    reader: Reader


class Source(ABC):
    """One kind of place: a folder tree, a column of bytes, a kind of URL."""

    @classmethod
    @abstractmethod
    def open(cls, setup: Setup) -> Self:
        """The source as an operator has configured it.  Raises `ConfigurationError`."""

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


class Distant(Source):
    """A place that takes its time: many images of it are on their way at once, and no thread waits for them."""

    def __init__(self, setup: Setup) -> None:
        self._reader = setup.reader
        self._timeout = setup.remote.timeout

    @abstractmethod
    def place(self, image: str) -> str:
        """Whose fault it would be if the image did not come: a host, a bucket."""

    @abstractmethod
    async def fetch(self, image: str) -> bytes:
        """As `read`, on the reader's loop; it need not watch the time."""

    def begin(self, image: str | bytes, priority: int) -> Future[Any]:
        """What `read` comes to, once it is there.  To cancel it abandons the read."""
        assert isinstance(image, str), "claimed"
        return self._reader.begin(partial(self._fetch_in_time, image), self.place(image), priority)

    async def _fetch_in_time(self, image: str) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                return await self.fetch(image)
        except TimeoutError:
            raise FileFailure(
                f"image {shown(image)} did not arrive within {self._timeout:g} seconds",
                hint="How long it may take is the setting images.remote_timeout.",
            ) from None
        except ThanoError:
            raise
        except Exception as error:  # its text could tell what must not be told: a signed URL, what answers inside a network
            raise InternalError(f"image {shown(image)} could not be read", detail=type(error).__name__) from None

    def read(self, image: str | bytes) -> bytes:
        found: bytes = self.begin(image, 0).result()
        return found

    def identity(self, image: str | bytes) -> str | None:
        """None, never taken for unchanged: to ask costs the same round trip as to read the image."""
        return None

    def stamps(self, images: Sequence[str | bytes]) -> list[Stamp | None]:
        """None, as `identity`."""
        return [None] * len(images)


class Sources:
    """The configured sources, in order."""

    def __init__(self, sources: Sequence[Source], reader: Reader) -> None:
        self._sources = tuple(sources)
        self._reader = reader

    def identity(self, image: str | bytes) -> str | None:
        """See `Source.identity`; None for what no source claims.  Raises nothing: whoever reads the image hears what is wrong."""
        return next((source.identity(image) for source in self._sources if source.claims(image)), None)

    def stamps(self, images: Sequence[str | bytes]) -> list[Stamp | None]:
        """See `Source.stamps`; None for what no source claims.  Raises nothing, as `identity`."""
        found: list[Stamp | None] = [None] * len(images)
        claimed: dict[Source, list[int]] = {}
        for at, image in enumerate(images):
            if (source := self._of(image)) is not None:
                claimed.setdefault(source, []).append(at)
        for source, places in claimed.items():
            for at, stamp in zip(places, source.stamps([images[at] for at in places]), strict=True):
                found[at] = stamp
        return found

    def distant(self, image: str | bytes) -> bool:
        """Whether it comes from a place that takes its time."""
        return isinstance(self._of(image), Distant)

    def read(self, image: str | bytes) -> bytes:
        """The encoded bytes of `image`, waiting for them.  Raises as `load` does."""
        return finish(self.load(image))

    def load(self, image: str | bytes) -> Steps[bytes]:
        """The encoded bytes of `image`.

        Raises `InvalidImage` (empty, too large, no URL), `FileUnavailable` (not there, or forbidden), `FileFailure` (did not arrive),
        `InsufficientPrivilege` (a host or bucket that is not allowed) or `FeatureNotSupported` (places that are not configured).
        """
        source = self._of(image)
        if source is None:
            raise FeatureNotSupported(
                f"images cannot be read from {shown(image)}",
                hint="Give a path below an image root, a bytea column with the image itself, or a data:, https:, s3:, gs: or az: URL.",
            )
        if isinstance(source, Distant):
            data: bytes = yield partial(source.begin, image)
        else:
            data = source.read(image)
        if not data:
            raise InvalidImage(f"image {shown(image)} is empty")
        if len(data) > MAX_BYTES:
            raise too_large(image)
        return data

    def _of(self, image: str | bytes) -> Source | None:
        return next((source for source in self._sources if source.claims(image)), None)

    def close(self) -> None:
        """End what is on its way."""
        self._reader.close()


def too_large(image: str | bytes) -> InvalidImage:
    """The error for an encoded image beyond `MAX_BYTES`."""
    return InvalidImage(f"image {shown(image)} is larger than {MAX_BYTES // (1024 * 1024)} MB")


def unavailable(image: str) -> FileUnavailable:
    """The error for an image that is not there, or that we may not have: the two look the same."""
    return FileUnavailable(f"image {shown(image)} is not available")


def not_arrived(image: str, why: str) -> FileFailure:
    """The error for an image that may well be there."""
    return FileFailure(f"image {shown(image)} could not be read: {why}")


def shown(image: str | bytes) -> str:
    """`image` as an error message may show it: quoted and cut short; bytes only by their length, and a URL without what may be secret."""
    if isinstance(image, bytes):
        return f"(bytea of {len(image)} bytes)"
    if url := _URL.match(image):
        image = url["scheme"] + ("…@" if url["user"] else "") + url["path"] + ("?…" if url["query"] else "")
    return f'"{image}"' if len(image) <= 200 else f'"{image[:200]}…"'
