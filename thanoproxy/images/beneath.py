"""Opening a file below a root, or a folder for a new one, and never anything else.

The walk holds one descriptor per folder it is in and opens each component relative to the last one with O_NOFOLLOW, so no
rename or link made in between can lead it elsewhere.  `..` goes back to the descriptor it came from (never to the kernel's `..`,
which a rename could have moved), and not above the root.  Links are resolved by the walk itself: a relative link may stay below the
root, an absolute one or one that climbs out ends the walk.  What openat2(RESOLVE_BENEATH) does in the kernel, without needing
Linux 5.6.

Nothing outside of the roots is ever touched, so neither an error nor its timing can tell what exists there.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from thanoproxy.errors import WorkerFailure
from thanoproxy.images.stamp import Stamp, stamp_of

__all__ = ["Found", "NotBeneath", "Roots", "TooLarge", "open_folder"]

MAX_LINKS = 40  # as the kernel's own limit (path_resolution(7))

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO must not wait for its writer; it has no effect on the regular files that pass the check.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DOTS = ("", ".", "..")
_HELD = 64
"""Folders held open at once."""

_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})  # the process's own trouble, not the path's


class NotBeneath(Exception):
    """There is no such regular file below the roots, or it may not be read.  It says no more on purpose."""


class TooLarge(Exception):
    """The file has more bytes than the caller wants."""


class Found(NamedTuple):
    """A descriptor, which whoever asked closes, whether it is a folder's, and the name that leads there from now on."""

    descriptor: int
    folder: bool
    name: str


class Roots:
    """Folders that files may be opened in.  A root that does not exist holds nothing."""

    def __init__(self, roots: Sequence[str]) -> None:
        self._roots = tuple(_Root(root) for root in roots)

    def __bool__(self) -> bool:
        return bool(self._roots)

    def open(self, name: str) -> int:
        """A descriptor of the regular file `name`, which the caller closes.

        A relative name is looked up below each root in turn; an absolute one below the roots it lies in by its text.
        Raises `NotBeneath`; `WorkerFailure` where this process has run out of descriptors.
        """
        return self._first(name, folder=False)[0]

    def find(self, name: str) -> Found:
        """The folder or regular file `name`; an absolute name becomes relative to its root, where that means the same.  Raises as `open`
        does."""
        try:
            as_folder = f"{name.rstrip('/')}/" if name else ""
            descriptor, root = self._first(as_folder, folder=True)
            return Found(descriptor, True, self._short(as_folder, root, folder=True))
        except NotBeneath:
            descriptor, root = self._first(name, folder=False)
            return Found(descriptor, False, self._short(name, root, folder=False))

    def _short(self, name: str, root: _Root, *, folder: bool) -> str:
        inside = root.relative(name)
        if name.startswith("/") and inside is not None:
            try:
                descriptor, first = self._first(inside or ".", folder=folder)
            except NotBeneath:
                return name.rstrip("/")
            os.close(descriptor)
            name = (inside or ".") if first is root else name
        return name.rstrip("/")

    def enter(self, name: str) -> tuple[int, str]:
        """For a new file `name`: a descriptor of the folder it would lie in, which the caller closes, and its name there.  Raises as
        `open` does."""
        folder, slash, last = name.rpartition("/")
        if last in _DOTS or "\0" in name:
            raise NotBeneath
        return self._first(folder + slash or ".", folder=True)[0], last

    def _first(self, name: str, *, folder: bool) -> tuple[int, _Root]:
        if not name or "\0" in name:
            raise NotBeneath
        for root in self._roots:
            inside = root.relative(name)
            if inside is None:
                continue
            try:
                return root.open(inside, folder=folder), root
            except (NotBeneath, UnicodeError):
                continue
            except OSError as error:
                if error.errno in _OURS:
                    raise WorkerFailure("the worker cannot open more files", detail=os.strerror(error.errno)) from error
        raise NotBeneath

    def read(self, name: str, limit: int) -> bytes:
        """The file's bytes.  Raises `NotBeneath`, or `TooLarge` before reading any where there are more than `limit`."""
        with os.fdopen(self.open(name), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise TooLarge
            # Not to the end of the file, which may be growing.
            data = file.read(size)
            while len(data) < size and (more := file.read(size - len(data))):
                data += more
            return data

    def stamps(self, names: Sequence[str]) -> list[Stamp | None]:
        """What becomes another one when the file does (`thanoproxy.images.stamp`), for each of them; None where there is no such file.

        Most lie in few folders, which are held open meanwhile: a walk to each file takes 20 us, and this 6.
        """
        folders: dict[str, int] = {}
        try:
            return [self._stamp(name, folders) for name in names]
        finally:
            for descriptor in folders.values():
                os.close(descriptor)

    def _stamp(self, name: str, folders: dict[str, int]) -> Stamp | None:
        try:
            descriptor = self._open_in(folders, name)
        except (NotBeneath, WorkerFailure):
            return None
        try:
            found = os.fstat(descriptor)
        except OSError:  # a network file system's, which may be away (ESTALE)
            return None
        finally:
            os.close(descriptor)
        return stamp_of(found) if stat.S_ISREG(found.st_mode) else None

    def _open_in(self, folders: dict[str, int], name: str) -> int:
        folder, slash, last = name.rpartition("/")
        held = folders.get(folder + slash)
        if held is None and len(folders) < _HELD:
            held = folders[folder + slash] = self.enter(name)[0]
        if held is not None and last not in _DOTS:
            try:
                return os.open(last, _FILE, dir_fd=held)
            except (OSError, ValueError):
                pass  # a link, or in another root, or not there
        return self.open(name)


def open_folder(name: str, within: int) -> int:
    """A descriptor of the folder `name` in the folder `within`; a link is not followed.  Raises `OSError`."""
    return os.open(name, _FOLDER, dir_fd=within)


class _Root:
    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        real = os.path.realpath(path)
        self._prefixes = tuple(dict.fromkeys((self.path, real)))

    def relative(self, name: str) -> str | None:
        """`name` as it is below this root, or None if it is an absolute path that is not."""
        if not name.startswith("/"):
            return name
        for prefix in self._prefixes:
            if name.startswith(prefix.rstrip("/") + "/"):
                return name[len(prefix.rstrip("/")) + 1 :]
        return None

    def open(self, name: str, *, folder: bool) -> int:
        # The root itself is the operator's and may be a link; everything below it is walked.
        stack = [os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
        try:
            return _walk(stack, name, folder=folder)
        finally:
            for descriptor in stack:
                os.close(descriptor)


def _walk(stack: list[int], name: str, *, folder: bool) -> int:
    """Open the file, or the folder, `name` relative to the folder on top of `stack`, pushing the folders entered; the first is the root."""
    pending = _components(name)
    if name.endswith("/") and not folder:
        raise NotBeneath
    links = 0
    while pending:
        part = pending.pop(0)
        if part == "..":
            if len(stack) == 1:
                raise NotBeneath
            os.close(stack.pop())
            continue
        try:
            if pending or folder:
                stack.append(os.open(part, _FOLDER, dir_fd=stack[-1]))
                continue
            return _regular(os.open(part, _FILE, dir_fd=stack[-1]))
        except OSError as error:
            # A link is ELOOP with O_NOFOLLOW alone, and ENOTDIR where O_DIRECTORY is asked for as well.
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
        target = os.readlink(part, dir_fd=stack[-1])  # EINVAL for what is no link
        links += 1
        if target.startswith("/") or links > MAX_LINKS:
            raise NotBeneath
        pending[:0] = _components(target)
    if not folder:
        raise NotBeneath  # the name was nothing but dots
    return os.dup(stack[-1])


def _components(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


def _regular(descriptor: int) -> int:
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise NotBeneath
