"""A folder of images, or a single one: a row for each file, its path and the name of the folder that it lies in.

A file counts by the ending of its name, and none is opened: a million files on a network's disk would take a quarter of an hour.  The
walk holds a descriptor for each folder that it is in and follows no link, so it stays below the root whatever becomes of the names
meanwhile.  What is in memory at once is the names in one folder, and in those around it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from thanoproxy.errors import FeatureNotSupported, FileUnavailable, InvalidOption, NoData, NotRepresentable
from thanoproxy.files.table import TEXT, Field, Format, Table, Wanted
from thanoproxy.images.beneath import NotBeneath, Roots, open_folder

__all__ = ["ENDINGS", "Photos"]

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif", ".avifs")
"""Of the formats that `thanoproxy.images.header` knows."""

_PART = 1 << 16
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"})
_NULL = r"\N"


class _Level(NamedTuple):
    """A folder that the walk is in: its descriptor, what is left of it, its path, and the label of the images in it."""

    descriptor: int
    left: Iterator[tuple[str, bool]]
    path: str
    label: str | None


class Photos(Table):
    """Raises `FileUnavailable`, `NoData` where there is no image, `InvalidOption` for a file that is none."""

    format = Format("text")

    def __init__(self, wanted: Wanted) -> None:
        self.fields = (Field(wanted.image_col or "image", TEXT), Field(wanted.label_col or "label", TEXT))
        self._source = wanted.source
        self._levels: list[_Level] = []
        self._others = self._links = 0
        if not wanted.image_roots:
            raise FeatureNotSupported(
                "COPY … OPTIONS has no folder to find images in",
                hint="The setting images.roots (--image-root DIR) names the folders that it may use; it is empty.",
            )
        try:
            found = Roots(wanted.image_roots).find(wanted.source)
        except NotBeneath:
            raise self._unavailable(wanted.source) from None
        if found.folder:
            self._rows = self._walk(found.descriptor, "" if found.name in ("", ".") else f"{found.name}/")
        else:
            os.close(found.descriptor)
            if not _is_image(wanted.source):
                raise InvalidOption(f'file "{wanted.source}" is no image, CSV or parquet file by its name', hint=_HINT)
            self._rows = iter([(_readable(found.name), None)])
        try:
            first = next(self._rows, None)
        except BaseException:
            self.close()
            raise
        if first is None:
            raise NoData(f'directory "{wanted.source}" holds no images', hint=_HINT)
        self._first = first

    def parts(self) -> Iterator[bytes]:
        part, size = [_line(*self._first)], 0
        for row in self._rows:
            line = _line(*row)
            part.append(line)
            size += len(line)
            if size >= _PART:
                yield b"".join(part)
                part, size = [], 0
        yield b"".join(part)

    def remark(self) -> str | None:
        counted = (
            (self._others, "file without the name of an image", "files without the name of an image"),
            (self._links, "link", "links"),
        )
        left_out = [f"{count} {one if count == 1 else more}" for count, one, more in counted if count]
        return f"left out: {' and '.join(left_out)}" if left_out else None

    def close(self) -> None:
        while self._levels:
            os.close(self._levels.pop().descriptor)

    def _walk(self, descriptor: int, path: str) -> Iterator[tuple[str, str | None]]:
        self._enter(descriptor, path, None)
        while self._levels:
            level = self._levels[-1]
            name, folder = next(level.left, ("", False))
            if not name:
                os.close(self._levels.pop().descriptor)
            elif folder:
                try:
                    child = open_folder(name, level.descriptor)
                except OSError:
                    raise self._unavailable(level.path + name) from None
                self._enter(child, f"{level.path}{name}/", name)
            else:
                yield _readable(level.path + name), level.label

    def _enter(self, descriptor: int, path: str, label: str | None) -> None:
        self._levels.append(_Level(descriptor, iter(()), path, label))
        try:
            with os.scandir(descriptor) as entries:
                names = sorted(self._wanted(entries))
        except OSError:
            raise self._unavailable(path.rstrip("/") or self._source) from None
        self._levels[-1] = _Level(descriptor, iter(names), path, label)

    def _wanted(self, entries: Iterator[os.DirEntry[str]]) -> Iterator[tuple[str, bool]]:
        """The images and folders, with whether it is a folder; hidden ones are left out without a word."""
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                self._links += 1
            elif entry.is_dir(follow_symlinks=False):
                yield entry.name, True
            elif entry.is_file(follow_symlinks=False) and _is_image(entry.name):
                yield entry.name, False
            else:
                self._others += 1

    def _unavailable(self, name: str) -> FileUnavailable:
        """The same for what is missing, may not be read, or lies elsewhere."""
        shown = name.encode("utf-8", "backslashreplace").decode()
        return FileUnavailable(
            f'directory or file "{shown}" is not available',
            hint="Images are looked up below the image roots (images.roots), CSV and parquet files below the file roots (files.roots).",
        )


_HINT = f"What counts are names that end in {', '.join(ENDINGS)}."


def _is_image(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def _readable(path: str) -> str:
    """The path as an image column has it.  Raises `NotRepresentable` for a name that is no UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = path.encode("utf-8", "backslashreplace").decode()
        raise NotRepresentable(
            f'the name of the file "{shown}" is no UTF-8, so no text can hold it', hint="Give it another name."
        ) from None
    return f"./{path}" if path[:5].lower() == "data:" else path  # or it would be taken for a URL


def _line(image: str, label: str | None) -> bytes:
    """https://www.postgresql.org/docs/18/sql-copy.html#SQL-COPY-FILE-FORMATS-TEXT"""
    return f"{image.translate(_ESCAPES)}\t{_NULL if label is None else label.translate(_ESCAPES)}\n".encode()
