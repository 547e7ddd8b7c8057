"""How this process keeps its memory.  Imports no torch, because it has to come first."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable

__all__ = ["KEEP_MEMORY", "KeptMemory", "give_back_freed_memory", "keep_freed_memory"]

KEEP_MEMORY = 60.0
"""Seconds for which the memory of a BUILD is kept for the next one: to map its gigabytes anew costs that one a second."""


def keep_freed_memory() -> None:
    """Have the C library keep the memory of freed tensors instead of giving it back to the system.

    An activation of a few megabytes would otherwise be mapped and unmapped for every layer, and the page faults cost more
    than the convolution: 50 against 190 images/s (MobileNetV2, batch 32, 2 cores).  One arena, because tensors of the device
    thread above 64 MB find no place in the arenas of other threads; that holds for arenas made later, so this must come
    before the first thread.  Only glibc has these; elsewhere nothing changes.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # malloc.h
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)
    mallopt(arena_max, 1)


def give_back_freed_memory() -> None:
    """Return to the system what is kept for nobody, as after a BUILD, whose gigabyte the next hour's PREDICTs do not need."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class KeptMemory:
    """What BUILDs have freed, for the next one, until `seconds` after the last; then `give_back` is called."""

    def __init__(self, seconds: float = KEEP_MEMORY, give_back: Callable[[], None] = give_back_freed_memory) -> None:
        self._seconds = seconds
        self._give_back = give_back
        self._until: float | None = None

    def freed(self) -> None:
        """A BUILD is over."""
        self._until = time.monotonic() + self._seconds

    def left(self) -> float | None:
        """For how many seconds more it is kept, None where there is none; with the last of them it is given back."""
        if self._until is None:
            return None
        left = self._until - time.monotonic()
        if left > 0:
            return left
        self._until = None
        self._give_back()
        return None
