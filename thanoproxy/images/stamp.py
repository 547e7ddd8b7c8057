"""Whether a file is still the one that was read, told without reading it.

Its stamp is which file it is, how large, and when it was written and changed.  The last is the kernel's own (inode(7): ctime): it also
moves where a program sets the other one back, as `cp -p` and `rsync -t` do.

Times have steps, though: a file that is written twice within one keeps its stamp.  Git calls that racy, and does not believe an index
entry that is not older than the index (git's Documentation/technical/racy-git.adoc).  Here a stamp is believed of a file that had not
changed for `SETTLED` when it was looked at, and that has the same one after it was read: whoever writes to it later, changes the stamp.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import NamedTuple

__all__ = ["ALWAYS", "SETTLED", "Stamp", "stamp_of"]

SETTLED = 2_000_000_000
"""Nanoseconds: the longest step there is, FAT's.  That of Linux's own file systems is 10 ms at most."""

_STAMP = Struct("=QQQqq")
_WORD = (1 << 64) - 1


class Stamp(NamedTuple):
    """`mark` is what is compared; `changed` is when the file last was, in nanoseconds since 1970."""

    mark: bytes
    changed: int

    def is_settled(self, now: int) -> bool:
        """Whether the file had not changed for long enough at `now`.  One dated in the future never is."""
        return self.changed < now - SETTLED


ALWAYS = Stamp(b"", 0)
"""Of what never changes."""


def stamp_of(found: os.stat_result) -> Stamp:
    mark = _STAMP.pack(found.st_dev & _WORD, found.st_ino & _WORD, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return Stamp(mark, max(found.st_mtime_ns, found.st_ctime_ns))
