"""JPEG files that wait for the device to decode them, on the one thread that asks it to.

It takes what waits, interactive before bulk, as many images as one batch has, whosever they are; and does not wait for more.
"""

from __future__ import annotations

import itertools
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import torch

from thanoproxy.engine.device import Device
from thanoproxy.engine.device_decoding import DeviceDecoder
from thanoproxy.images.jpeg import PlainJpeg
from thanoproxy.images.loader import LoaderThreads
from thanoproxy.models.preprocessing import Preprocessing

__all__ = ["HELD", "Decoded", "DeviceDecoding"]

HELD = 1024 * 1024 * 1024
"""Bytes of encoded images that wait at most: as many as are decoded ahead, of a megabyte each."""

Decoded = list[torch.Tensor | None]

log = logging.getLogger(__name__)


class _Job(NamedTuple):
    priority: int
    order: int
    jpegs: Sequence[PlainJpeg]
    preprocessing: Preprocessing
    future: Future[Decoded]


class DeviceDecoding:
    """Without a `decoder` it takes no image, and has no thread.  Any thread may call it."""

    def __init__(
        self, device: Device, decoder: DeviceDecoder | None, on_start: Callable[[], None] = lambda: None, held: int = HELD
    ) -> None:
        self._decoder = decoder
        self._most = device.predict_batch
        self._room = held
        self._gone: deque[int] = deque()
        self._lock = threading.Lock()
        self._waiting: list[_Job] = []
        self._numbers = itertools.count()

        def begin() -> None:
            device.enter()
            on_start()

        self.threads = LoaderThreads(0 if decoder is None else 1, begin)

    def __bool__(self) -> bool:
        """Whether it takes images."""
        return self._decoder is not None

    def admit(self, jpeg: PlainJpeg) -> bool:
        """Whether there is room for it: until nothing refers to it any more."""
        size = len(jpeg.data)
        with self._lock:
            while self._gone:
                self._room += self._gone.popleft()
            if size > self._room:
                return False
            self._room -= size
        # Called wherever the last reference goes, so also by a thread that has the lock.
        weakref.finalize(jpeg, self._gone.append, size).atexit = False
        return True

    def submit(self, jpegs: Sequence[PlainJpeg], preprocessing: Preprocessing, priority: int) -> Future[Decoded]:
        """See `DeviceDecoder.decode`.  It never fails; cancelled before its turn it costs nothing."""
        assert self._decoder is not None, "it takes no images"
        job = _Job(priority, next(self._numbers), jpegs, preprocessing, Future())
        with self._lock:
            self._waiting.append(job)
        self.threads.submit(self._turn, priority)
        return job.future

    def close(self) -> None:
        """Finish what runs, drop what waits."""
        self.threads.close()
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for job in waiting:
            job.future.cancel()

    def _turn(self) -> None:
        chosen = [job for job in self._next() if job.future.set_running_or_notify_cancel()]
        if not chosen:  # decoded with others, or cancelled
            return
        jpegs = [jpeg for job in chosen for jpeg in job.jpegs]
        assert self._decoder is not None, "somebody submitted"
        try:
            found = iter(self._decoder.decode(jpegs, chosen[0].preprocessing))
        except Exception:  # the CPU can do it
            log.exception("the device failed to decode %d images", len(jpegs))
            found = iter([None] * len(jpegs))
        del jpegs
        for job in chosen:
            job.future.set_result(list(itertools.islice(found, len(job.jpegs))))

    def _next(self) -> list[_Job]:
        """Whose turn it is, and who goes with it: all that is cropped in the same way, up to a batch."""
        with self._lock:
            self._waiting.sort(key=lambda job: job[:2])
            chosen, others, images = list[_Job](), list[_Job](), 0
            for job in self._waiting:
                more = images + len(job.jpegs)
                if not chosen or (job.preprocessing == chosen[0].preprocessing and more <= self._most):
                    chosen.append(job)
                    images = more
                else:
                    others.append(job)
            self._waiting = others
            return chosen
