"""What a training needs to go on in another process: written after its epochs, read when the same job is asked for again.

A job whose worker dies is sent to another one as it was (`thanoproxy.workers.crew`).  There it must end as if nothing had happened, so all
that has been learnt, measured and decided is kept, and whatever is random is drawn from the seed and the number of a step, not from
the state of a generator.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import torch

from thanoproxy.workers.spool import half_written

__all__ = ["Checkpoint", "State"]

State = dict[str, Any]
"""Tensors, numbers, text, and lists and dicts of these: what torch reads without running code."""

SHARE = 0.1
"""Of the time, at most, for writing: where epochs are short, not each is worth its hundreds of megabytes."""

log = logging.getLogger(__name__)


class Checkpoint:
    """The file at `path`, or none at all."""

    def __init__(self, path: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._next = float("-inf")

    def load(self) -> State | None:
        """What was kept last; None where nothing was."""
        if self._path is None or not os.path.exists(self._path):
            return None
        try:
            state: State = torch.load(self._path, "cpu", weights_only=True)
        except Exception:  # whatever is wrong with the file, training can begin anew
            log.exception("a checkpoint cannot be read")
            return None
        return state

    def save(self, state: Callable[[], State]) -> None:
        """Keep `state()`, unless too much time has gone into that of late.  A failure is logged: the training itself is well."""
        started = self._clock()
        if self._path is None or started < self._next:
            return
        try:
            torch.save(state(), half_written(self._path))
            os.replace(half_written(self._path), self._path)
        except (OSError, RuntimeError):  # torch has the one as well as the other for a full disk
            log.exception("a checkpoint cannot be written")
            with contextlib.suppress(OSError):
                os.unlink(half_written(self._path))  # others may need the room more
        ended = self._clock()
        self._next = ended + (ended - started) / SHARE

    def discard(self) -> None:
        """The job is over."""
        if self._path is not None:
            for path in (self._path, half_written(self._path)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
