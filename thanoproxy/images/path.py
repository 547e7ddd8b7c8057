"""Images in files below the image roots, named by a path (a `file:` URL is a path too)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Self
from urllib.parse import unquote

from thanoproxy.errors import FileUnavailable, WorkerFailure
from thanoproxy.images.beneath import NotBeneath, Roots, TooLarge
from thanoproxy.images.source import MAX_BYTES, Setup, Source, shown, too_large
from thanoproxy.images.stamp import Stamp

__all__ = ["LocalPath"]

# Two letters at least, so that `C:/photos/1.jpg` is a (missing) path and no URL of scheme "c".
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class LocalPath(Source):
    """Files of the machine the worker runs on.  What is missing and what lies outside of the roots look the same."""

    def __init__(self, image_roots: Sequence[str]) -> None:
        self._roots = Roots(image_roots)
        self._any = bool(image_roots)

    @classmethod
    def open(cls, setup: Setup) -> Self:
        return cls(setup.roots)

    def claims(self, image: str | bytes) -> bool:
        return isinstance(image, str) and (image.startswith("file:///") or not _URL.match(image))

    def read(self, image: str | bytes) -> bytes:
        try:
            return self._roots.read(_name(image), MAX_BYTES)
        except NotBeneath:
            raise FileUnavailable(f"image file {shown(image)} is not available", hint=self._hint()) from None
        except TooLarge:
            raise too_large(image) from None

    def identity(self, image: str | bytes) -> str | None:
        """When the file was last written, in nanoseconds, and its size; None where there is no such file."""
        try:
            descriptor = self._roots.open(_name(image))
        except (NotBeneath, WorkerFailure):
            return None
        try:
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        return f"{found.st_mtime_ns}-{found.st_size}"

    def stamps(self, images: Sequence[str | bytes]) -> list[Stamp | None]:
        return self._roots.stamps([_name(image) for image in images])

    def _hint(self) -> str:
        if not self._any:
            return "No image root is configured: start the proxy with --image-root DIR."
        return "Paths are looked up below the image roots (--image-root DIR); files elsewhere cannot be used."


def _name(image: str | bytes) -> str:
    assert isinstance(image, str), "claimed"
    return unquote(image[7:]) if image.startswith("file:///") else image
