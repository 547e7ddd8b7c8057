"""Files that COPY … OPTIONS makes rows of: one module per kind, and one line in the list below.

    CSV      delimited   below the file roots
    parquet  parquet     below the file roots
    others   photos      a folder of images or a single one, below the image roots

Nothing here knows of SQL beyond the names of types, nor of sessions; it runs in a process of its own (`thanoproxy.workers.reading`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import BinaryIO

from thanoproxy.errors import FeatureNotSupported, FileUnavailable, InvalidOption
from thanoproxy.files.delimited import Delimited
from thanoproxy.files.parquet import Parquet
from thanoproxy.files.photos import Photos
from thanoproxy.files.table import Field, Format, Table, Wanted
from thanoproxy.images.beneath import NotBeneath, Roots

__all__ = ["Field", "Format", "Table", "Wanted", "open_table"]

KINDS: Mapping[str, Callable[[BinaryIO, str], Table]] = {
    ".csv": partial(Delimited, delimiter=","),
    ".tsv": partial(Delimited, delimiter="\t"),
    ".parquet": Parquet,
}
"""By the ending of the name.  What has none of these is a folder of images, or an image."""


def open_table(wanted: Wanted) -> Table:
    """The rows of `wanted.source`.  Raises `FileUnavailable` and what else is wrong with it."""
    if "\0" in wanted.source or not wanted.source:
        raise FileUnavailable('directory or file "" is not available', hint="Name a directory or a file.")
    make = KINDS.get(os.path.splitext(wanted.source.rstrip("/"))[1].lower())
    if make is None:
        return Photos(wanted)
    for option in ("image_col", "label_col"):
        if getattr(wanted, option) is not None:
            raise InvalidOption(f'option "{option}" is for images, and "{wanted.source}" names its columns itself')
    if not wanted.file_roots:
        raise FeatureNotSupported(
            "COPY … OPTIONS has no folder to find CSV and parquet files in",
            hint="The setting files.roots names the folders that it may use; it is empty.",
        )
    file = _opened(wanted)
    try:
        return make(file, wanted.source)
    except BaseException:
        file.close()
        raise


def _opened(wanted: Wanted) -> BinaryIO:
    try:
        return os.fdopen(Roots(wanted.file_roots).open(wanted.source), "rb")
    except NotBeneath:
        raise FileUnavailable(
            f'file "{wanted.source}" is not available',
            hint="CSV and parquet files are looked up below the file roots (setting files.roots).",
        ) from None
