"""Folders for what lasts no longer than the process: spools and sockets.

Whoever makes one holds a lock on a file in it (flock(2)), which goes with the process, however that ends; so the next one that starts
can tell what a killed one left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import tempfile
import time

__all__ = ["Scratch", "remove_abandoned"]

log = logging.getLogger(__name__)

PREFIX = "thanoproxy-"
_OWNER = "owner"
_YOUNG = 60.0
"""A folder may be without its lock for a moment after it was made."""


class Scratch:
    """A folder of our own in `parent`, by default the system's for temporary files."""

    def __init__(self, parent: str | None = None) -> None:
        self.path = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
        self._lock = os.open(os.path.join(self.path, _OWNER), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def remove_abandoned(parent: str | None = None, young: float = _YOUNG) -> None:
    """Remove the folders in `parent` whose owner, of the same user as we, is gone."""
    parent = parent or tempfile.gettempdir()
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX):
                with contextlib.suppress(OSError):
                    _remove_if_abandoned(entry.path, young)


def _remove_if_abandoned(folder: str, young: float) -> None:
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return
    descriptor = os.open(os.path.join(folder, _OWNER), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_mtime > time.time() - young:
            return
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: somebody's
        shutil.rmtree(folder)
        log.info("removed %s, which a process that was killed had left", folder)
    finally:
        os.close(descriptor)
