"""What the engine computes on, and how it computes best there."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from thanoproxy.errors import ConfigurationError, DeviceOutOfMemory

__all__ = ["Device", "choose", "cores", "in_halves", "is_out_of_memory"]


@dataclass(frozen=True)
class Device:
    """A torch device with the number formats that suit it.

    `halves` says that it predicts in 16 bits, in the architecture's format.
    `predict_batch` is the most images predicted at once when nobody has said otherwise; `threads` is how many cores torch may use: one
    beside a GPU, unless somebody has said otherwise.
    `depth` is how many batches are on their way at once: on CUDA one computes while the next one is brought there.
    `train_part` is the most images that gradients are computed of at once where a batch may have more; None for as many as fit.
    """

    device: torch.device
    halves: bool
    predict_batch: int
    threads: int
    depth: int = 1
    train_part: int | None = None

    @property
    def name(self) -> str:
        return str(self.device)

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def siblings(self) -> int:
        """How many devices of this kind the machine has, this one included."""
        return torch.cuda.device_count() if self.is_cuda else 1

    def number_format(self, half: torch.dtype) -> torch.dtype:
        """What an architecture whose 16 bits are `half` predicts in."""
        return half if self.halves else torch.float32

    def enter(self) -> None:
        """Make it the device of the calling thread, for what torch makes without being told where."""
        if self.is_cuda:
            torch.cuda.set_device(self.device)

    def enter_aside(self) -> None:
        """The same for a thread that brings models there: with one core, and a stream of its own.

        On the stream of the batches each of a model's 200 tensors would wait for those that were launched before.  Whoever uses on another
        stream what was brought on this one has to wait for it: see `settle`.
        """
        self.enter()
        torch.set_num_threads(1)
        if self.is_cuda:
            torch.cuda.set_stream(torch.cuda.Stream(self.device))  # type: ignore[no-untyped-call]

    def settle(self) -> None:
        """Wait until what the calling thread has told it is done, so that it may be used on every stream."""
        if self.is_cuda:
            torch.cuda.current_stream(self.device).synchronize()

    def use_threads(self) -> None:
        """Let torch use `threads` cores from the calling thread.

        OpenMP keeps that number for each thread, but MKL one for all, so the thread that computes calls this last.
        """
        torch.set_num_threads(self.threads)

    def synchronize(self) -> None:
        """Wait for the device, so that a clock read afterwards is right."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def is_lost(self, error: BaseException) -> bool:
        """Whether `error` is the end of the device for this process: after such a one every later call fails, too (CUDA C++ Programming
        Guide, "Error Checking"), so that is tried."""
        if not self.is_cuda or not isinstance(error, RuntimeError) or is_out_of_memory(error):
            return False
        try:
            torch.cuda.synchronize(self.device)
        except RuntimeError:
            return True
        return False

    def release(self) -> None:
        """Give cached memory back, after an out-of-memory error or an eviction."""
        if self.is_cuda:
            torch.cuda.empty_cache()


def choose(name: str = "auto", threads: int | None = None) -> Device:
    """The device called `name`: 'auto' (the first CUDA device, or else the CPU), 'cpu', 'cuda' or 'cuda:1'.

    Raises `ConfigurationError` for one that is not there.
    """
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        # bf16 is emulated on CPUs without AMX, and slower than fp32.  A larger batch is no faster there, and makes others
        # wait longer.  Activations of 32 images are 2 GB of MobileNet_V2 and 5 of ConvNeXt_Tiny, and a system that has promised more
        # than it has ends the process; smaller parts are slower.
        return Device(torch.device("cpu"), False, 16, threads or cores(), train_part=32)
    device = torch.device(name)
    index = device.index or 0
    if device.type != "cuda" or not torch.cuda.is_available() or index >= torch.cuda.device_count():
        raise ConfigurationError(f"there is no device {name!r}", hint="Use 'auto', 'cpu' or 'cuda:0'.")
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    # All that the CPU has to do is to stack pixels.  torch divides each image's among threads, which takes longer than to copy them, and
    # much longer where decoding keeps the cores busy: 5 ms for 256 images, against 30, and against a second.
    return Device(torch.device("cuda", index), True, 256, threads or 1, depth=2)


def cores() -> int:
    """How many cores this process may keep busy: those it may run on, or its control group's share of them, rounded up."""
    allowed = len(os.sched_getaffinity(0))
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:  # "<quota> <period>" in microseconds, or "max <period>" (cgroups v2)
            quota, period = file.read().split()
        return min(allowed, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        return allowed


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether `error` says that a tensor, or a library of CUDA's, found no memory; only the former has a class of its own, on CUDA."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _NO_MEMORY)


Images = TypeVar("Images", torch.Tensor, Sequence[torch.Tensor])


def in_halves(device: Device, compute: Callable[[Images], torch.Tensor], images: Images) -> torch.Tensor:
    """What `compute` makes of `images`, (n, …); what does not fit into the device's memory is halved until it does.

    Raises `DeviceOutOfMemory` if one image does not.
    """
    try:
        return compute(images)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(images) == 1:
            raise DeviceOutOfMemory("not even one image fits into the device's memory", detail=str(error)) from None
    # Outside of the handler, whose traceback keeps the failed attempt's tensors alive.
    device.release()
    half = len(images) // 2
    return torch.cat([in_halves(device, compute, images[:half]), in_halves(device, compute, images[half:])])


_NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
