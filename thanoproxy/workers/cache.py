"""What a model said of an image, kept for whoever asks for the same again.

An entry is a vector of numbers (`jobs.Vector`) under a name that says everything it depends on: what made the numbers, what the row
says of the image, and what else tells its content (`thanoproxy.images.source.Source.stamps`).  An entry is never wrong, then, only not
asked for any more: nothing is ever made invalid, and the least recently used go when there is no room.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

__all__ = ["ENTRY_BYTES", "PredictionCache", "name_of", "subject_of"]

_DIGEST = 32
"""Bytes of a name: nobody finds two images of one name, so nobody can have one pass for the other."""

_SHORT = 256

ENTRY_BYTES = 352
"""What an entry takes beside its numbers: two objects of bytes, a node of the list and a place in the table at their worst (CPython 3.11
to 3.13, 64 bits)."""


class PredictionCache:
    """At most `budget` bytes of entries; 0 keeps none.  Any thread may call it."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        """Whether it keeps anything."""
        return self._budget > 0

    @property
    def held(self) -> int:
        """Bytes, as `budget` counts them."""
        return self._held

    def find(self, names: Sequence[bytes]) -> list[bytes | None]:
        """What is kept under each of them."""
        entries = self._entries
        with self._lock:
            found = [entries.get(name) for name in names]
            for name, value in zip(names, found, strict=True):
                if value is not None:
                    entries.move_to_end(name)
        return found

    def keep(self, name: bytes, value: bytes) -> None:
        size = len(value) + ENTRY_BYTES
        if size > self._budget:
            return
        with self._lock:
            if name in self._entries:
                return
            self._entries[name] = value
            self._held += size
            while self._held > self._budget:
                _, dropped = self._entries.popitem(last=False)
                self._held -= len(dropped) + ENTRY_BYTES


def subject_of(image: str | bytes) -> bytes:
    """What a row says of an image, in few bytes."""
    if isinstance(image, bytes):
        return b"b" + blake2b(image, digest_size=_DIGEST).digest()
    text = image.encode("utf-8", "surrogatepass")
    return b"t" + text if len(text) <= _SHORT else b"l" + blake2b(text, digest_size=_DIGEST).digest()


def name_of(maker: bytes, subject: bytes, mark: bytes) -> bytes:
    """Of the numbers that `maker` (the hash of an artifact, or of a backbone) makes of it while its stamp has this mark."""
    return blake2b(b"%b%c%b%b" % (maker, len(mark), mark, subject), digest_size=_DIGEST).digest()
