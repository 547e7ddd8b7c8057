"""How the pixels of a batch come onto a device, and what was made of them comes back, while another batch computes there.

On a CPU there is nowhere to go.  On CUDA, pixels are stacked into pinned memory, which the device reads by itself, and copied on a stream
of their own; results are copied back into pinned memory behind the computation.  Nothing here waits for the device, but for memory that is
used again.  All of it belongs to the device's thread; only a `Mark` may be waited for on another.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import cycle
from typing import Protocol

import torch

from thanoproxy.engine.device import Device

__all__ = ["Mark", "Pace", "Staging", "open_staging"]


Images = Sequence[torch.Tensor] | torch.Tensor


class Mark(Protocol):
    """A place in what a device has been told to do."""

    def synchronize(self) -> None:
        """Wait until it has come there.  Raises what the device has failed with."""


class Staging(Protocol):
    """The way to a device and back."""

    def on_device(self, images: Images) -> AbstractContextManager[torch.Tensor]:
        """uint8 (n, 3, h, w), or n images of one shape (3, h, w), of which the device may have decoded some itself; all of them on the
        device, where what is computed inside the block may read them."""

    def small(self, tensor: torch.Tensor) -> torch.Tensor:
        """One of a few bytes on the device: labels."""

    def fetch(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor on the CPU, its values there once a `mark` made afterwards is reached."""

    def mark(self) -> Mark | None:
        """Here; None where it has been reached already."""


def open_staging(device: Device) -> Staging:
    return _CudaStaging(device.device, device.depth) if device.is_cuda else _HostStaging()


class Pace:
    """Holds back who tells the device what to do and needs no results, until it is no more than `depth` steps ahead."""

    def __init__(self, staging: Staging, depth: int) -> None:
        self._staging = staging
        self._depth = depth
        self._marks: deque[Mark] = deque()

    def step(self) -> None:
        """Another step was told.  Raises what the device has failed with."""
        mark = self._staging.mark()
        if mark is not None:
            self._marks.append(mark)
        if len(self._marks) > self._depth:
            self._marks.popleft().synchronize()


class _HostStaging:
    @contextmanager
    def on_device(self, images: Images) -> Generator[torch.Tensor, None, None]:
        yield images if isinstance(images, torch.Tensor) else torch.stack(list(images))

    def small(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def fetch(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def mark(self) -> Mark | None:
        return None


class _CudaStaging:
    def __init__(self, device: torch.device, depth: int) -> None:
        self._device = device
        self._copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._slots = cycle([_Slot(device) for _ in range(depth)])

    @contextmanager
    def on_device(self, images: Images) -> Generator[torch.Tensor, None, None]:
        slot, computing = next(self._slots), torch.cuda.current_stream(self._device)
        here = images if isinstance(images, torch.Tensor) else [image for image in images if not image.is_cuda]
        moved = self._move(slot, here) if len(here) else images[0].new_empty(0)
        computing.wait_event(slot.copied)
        try:
            yield moved if len(here) == len(images) else _in_order(images, moved, computing)
        finally:  # also when it failed half-way: kernels that were launched before still read
            slot.read.record(computing)

    def _move(self, slot: _Slot, images: Images) -> torch.Tensor:
        host, moved = slot.room(len(images), images[0].shape)
        if isinstance(images, torch.Tensor):
            host.copy_(images)
        else:
            torch.stack(list(images), out=host)
        self._copying.wait_event(slot.read)
        with torch.cuda.stream(self._copying):
            moved.copy_(host, non_blocking=True)
            slot.copied.record(self._copying)
        return moved

    def small(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def fetch(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)

    def mark(self) -> Mark | None:
        event = _event()
        event.record(torch.cuda.current_stream(self._device))
        return event


def _in_order(images: Images, moved: torch.Tensor, computing: torch.cuda.Stream) -> torch.Tensor:
    """`images`, of which `moved` are those that came from the CPU."""
    came = iter(moved)
    for image in images:
        if image.is_cuda:
            image.record_stream(computing)  # its memory is another stream's, which must not use it again before
    return torch.stack([image if image.is_cuda else next(came) for image in images])


class _Slot:
    """Memory for the pixels of one batch on both sides, made when it is wanted and kept."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._host = torch.empty(0, dtype=torch.uint8)
        self._moved = torch.empty(0, dtype=torch.uint8)
        self.copied, self.read = _event(), _event()

    def room(self, count: int, shape: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """(count, *shape) in pinned memory and on the device; the former is free to be written."""
        size = count * math.prod(shape)
        self.copied.synchronize()
        if self._host.numel() < size:
            self.read.synchronize()
            self._host = self._moved = torch.empty(0, dtype=torch.uint8)
            with torch.inference_mode(False):  # for training, too, whoever asks first
                self._moved = torch.empty(size, dtype=torch.uint8, device=self._device)
                self._host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
            # It may be memory that what is still being computed has just given back, which only counts on its own stream.
            self.read.record(torch.cuda.current_stream(self._device))
        return self._host[:size].view(count, *shape), self._moved[:size].view(count, *shape)


def _event() -> torch.cuda.Event:
    # Whoever waits sleeps: a thread that spins takes a core from decoding.
    return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
