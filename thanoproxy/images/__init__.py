"""Images: where they may come from, and the one definition of their pixels.

One file per place.  To add one, write a class with the verbs of `Source`, or of `Distant` if it is reached over a network (see
`thanoproxy.images.source`), and name it in `SOURCES` below.
"""

from __future__ import annotations

from collections.abc import Sequence

from thanoproxy.images.https import HttpsUrl
from thanoproxy.images.inline import Bytes, DataUrl
from thanoproxy.images.path import LocalPath
from thanoproxy.images.reader import Reader
from thanoproxy.images.settings import RemoteSettings
from thanoproxy.images.source import Setup, Source, Sources
from thanoproxy.images.stores import StoredObject

__all__ = ["SOURCES", "Source", "Sources", "open_sources"]

# The first source that claims a value reads it.  LocalPath claims every text that is no URL, so it comes last.
SOURCES: tuple[type[Source], ...] = (Bytes, DataUrl, HttpsUrl, StoredObject, LocalPath)


_NOTHING = RemoteSettings()


def open_sources(image_roots: Sequence[str], remote: RemoteSettings = _NOTHING) -> Sources:
    """Every source, with local paths confined to `image_roots`, and what `remote` names.  Raises `ConfigurationError`."""
    setup = Setup(tuple(image_roots), remote, Reader(remote.reads))
    return Sources([source.open(setup) for source in SOURCES], setup.reader)
