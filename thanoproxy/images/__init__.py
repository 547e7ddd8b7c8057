"""Images: where they may come from, and the one definition of their pixels.

One file per place.  To add one, write a class with the three verbs of `Source` (see `thanoproxy.images.source`) and name it in
`SOURCES` below.
"""

from __future__ import annotations

from collections.abc import Sequence

from thanoproxy.images.inline import Bytes, DataUrl
from thanoproxy.images.path import LocalPath
from thanoproxy.images.source import Source, Sources

__all__ = ["SOURCES", "Source", "Sources", "open_sources"]

# The first source that claims a value reads it.  LocalPath claims every text that is no URL, so it comes last.
SOURCES: tuple[type[Source], ...] = (Bytes, DataUrl, LocalPath)


def open_sources(image_roots: Sequence[str]) -> Sources:
    """Every source, with local paths confined to `image_roots`."""
    return Sources([source.open(image_roots) for source in SOURCES])
