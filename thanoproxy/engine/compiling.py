"""Networks compiled in the background for the batches that a GPU likes, and swapped in once they are known to be right.

The first batches run as they are.  Meanwhile a thread compiles the network (torch.compile), runs it on a real batch, compares the features
with those of the original and with exact ones, and records its kernels as a CUDA graph, one for each of a few batch sizes.  From then on
a batch of about such a size is one launch.  Whatever goes wrong on the way is logged, and nothing changes.

A compiled network belongs to an architecture and an input size, not to a model: it has weights of its own, into which those of the model
whose turn it is are copied (57 MB for ConvNeXt_Tiny: some 30 µs on the device).  What runs on the device's thread is the copy and the
graph's launch alone: neither Dynamo nor its guards, which could decide there to compile anew.
"""

from __future__ import annotations

import copy
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from thanoproxy.engine.device import Device
from thanoproxy.engine.model import Model
from thanoproxy.models.preprocessing import RAW, channel_scales, normalize, normalize_by

__all__ = ["Compiler", "difference"]

SIZES = (1, 2, 4, 8)
"""The batches that are compiled for: the device's largest, and so many times smaller ones.  A batch that is more than half as large as the
next of them is filled up to it."""

MOST = 8
"""Networks that are compiled in all: each keeps weights and activations on the device."""

TOLERANCE = 1.5
"""How far from the exact features those of a compiled network may be, in units of how far the original's are: rounding to bf16 alone puts
ConvNeXt_Tiny's off by 0.8 % of their length, and EfficientNetV2S's by 14."""

EXACT_BATCH = 32
RETRY = 1.0

GIVE_WAY = 0.0002
"""Seconds after which a compilation lets go of the interpreter's lock for another thread.  Dynamo is Python for half a minute, and whoever
launches kernels lets go of it at each of them: beside a thread of Python alone, 250 launches of 0.4 ms took up to 82 (in one case of ten)
with the interval that is usual, and 0.6 with this one."""

log = logging.getLogger(__name__)

Function = Callable[[torch.Tensor], torch.Tensor]


class Recorded(Protocol):
    """A network for batches of one size."""

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (n, 3, crop, crop) of at most that size -> features (n, f), good until the next call."""


class Compiler:
    """The compiled networks of one device.

    `busy` is held by the device's thread while it tells the device what to do; `may_begin` says whether a compilation, which disturbs
    torch's random numbers, harms nobody now.  `backend` and `mode` are torch.compile's.
    """

    def __init__(
        self,
        device: Device,
        busy: AbstractContextManager[object] | None = None,
        may_begin: Callable[[], bool] = lambda: True,
        backend: str = "inductor",
        mode: str | None = None,
    ) -> None:
        self._device = device
        self._busy = busy or nullcontext()
        self._may_begin = may_begin
        self._backend, self._mode = backend, mode
        self._sizes = sorted({max(1, device.predict_batch // part) for part in SIZES}, reverse=True)
        self._networks: dict[object, _Network] = {}
        self._streams = _Streams(device.device) if device.is_cuda else None
        self._orders: queue.SimpleQueue[tuple[_Network, Model, torch.Tensor] | None] = queue.SimpleQueue()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="compiler", daemon=True)
        self._thread.start()

    def features(self, model: Model, pixels: torch.Tensor) -> torch.Tensor | None:
        """The features of uint8 (n, 3, crop, crop) on the device; None where there is no compiled network for them (yet).

        On the device's thread.
        """
        size = next((size for size in reversed(self._sizes) if size >= len(pixels)), None)
        if size is None or 2 * len(pixels) <= size:
            return None
        network = self._networks.get(key := (model.architecture.name, model.preprocessing))
        if network is None:
            if len(self._networks) >= MOST:
                return None
            order = (_Network(model.architecture.name), model, pixels.clone())
            network = self._networks[key] = order[0]
            self._orders.put(order)
        recorded = network.recorded.get(size)
        if recorded is None or not network.may_hold(model):
            return None
        try:
            network.take_weights(model)
            return recorded(pixels).clone()
        except Exception:  # the original is as good, only slower
            log.exception("the compiled %s failed, and is used no more", network.name)
            network.failed = True
            return None

    def close(self) -> None:
        """Stop when what is being compiled is compiled; nobody waits for that."""
        self._closing = True
        self._orders.put(None)

    def _run(self) -> None:
        self._device.enter()
        # Dynamo compares them, and would compile anew elsewhere.
        torch.set_num_threads(self._device.threads)
        torch._dynamo.config.recompile_limit = MOST * len(SIZES)
        while (order := self._orders.get()) is not None:
            while not self._may_begin() and not self._closing:
                time.sleep(RETRY)
            network, model, pixels = order
            try:
                with _giving_way():
                    self._compile(network, model, pixels)
            except Exception:
                log.exception("%s cannot be compiled, and runs as it is", network.name)
                network.failed = not network.recorded  # what was found right before is as right as ever
            network.complete = True
            del order, model, pixels

    @torch.inference_mode()
    def _compile(self, network: _Network, model: Model, pixels: torch.Tensor) -> None:
        started = time.monotonic()
        with nullcontext() if self._streams is None else self._streams.aside():
            vessel = _Vessel(model)
            network.weights, network.holder = vessel.weights, model.backbone
            function: Function = torch.compile(vessel, backend=self._backend, mode=self._mode, dynamic=False)
            for size in self._sizes:
                if self._closing or network.failed:
                    return
                batch = pixels[torch.arange(size, device=pixels.device) % len(pixels)]
                wanted = model.features(normalize(batch, model.preprocessing, model.dtype)).clone()
                check = _Check(wanted, _exact(model, batch))
                check(function(batch), "compiled")
                if self._closing:  # whoever uses the device from now on need not keep off `busy`
                    return
                recorded = self._record(function, batch)
                check(recorded(batch), "recorded")
                self._device.synchronize()
                network.recorded[size] = recorded
                log.info("%s is compiled for %d images at once, after %.0f s", network.name, size, time.monotonic() - started)

    def _record(self, function: Function, batch: torch.Tensor) -> Recorded:
        if self._streams is None:
            return _Called(function, batch)
        # Nobody else may draw random numbers (torch raises where they do) or ask for memory in ways that a capture forbids.
        with self._busy:
            return _Graph(function, batch, self._streams.recording)


@dataclass
class _Network:
    """What has been compiled so far for one architecture, and whose weights are in it."""

    name: str
    recorded: dict[int, Recorded] = field(default_factory=dict)
    weights: Sequence[torch.Tensor] = ()
    holder: str | None = None
    complete: bool = False
    failed: bool = False

    def may_hold(self, model: Model) -> bool:
        """While it is being compiled, it keeps the weights that it is compared with."""
        return not self.failed and (self.complete or self.holder == model.backbone)

    def take_weights(self, model: Model) -> None:
        if self.holder != model.backbone:
            with torch.inference_mode():
                torch._foreach_copy_(list(self.weights), _weights_of(model, model.network))
            self.holder = model.backbone


class _Vessel(nn.Module):
    """From pixels to features: a network to be compiled, with a model's weights for the time being."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network = copy.deepcopy(model.network)
        self.weights = _weights_of(model, self.network)
        self._features = model.architecture.features
        self._dtype = model.dtype
        preprocessing = model.preprocessing
        self._raw = (preprocessing.mean, preprocessing.std) == (RAW.mean, RAW.std)
        # Tensors, not numbers: what is recorded cannot fetch them from the CPU.
        self._mean, self._std = channel_scales(preprocessing.mean, preprocessing.std, model.device.device)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if self._raw:
            images = pixels.to(torch.float32, memory_format=torch.channels_last).to(self._dtype)
        else:
            images = normalize_by(pixels, self._mean, self._std, self._dtype)
        return self._features(self.network, images)


class _Graph:
    """A function's kernels for one batch size, recorded on `stream`."""

    def __init__(self, function: Function, batch: torch.Tensor, stream: torch.cuda.Stream) -> None:
        self._pixels = batch.clone()
        self._graph = torch.cuda.CUDAGraph()
        # Only this thread is held to what a capture allows: others may load models meanwhile.
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self._features = function(self._pixels)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        # What is behind them in the buffer is an older batch's, and computed for nothing.
        self._pixels[: len(pixels)].copy_(pixels)
        self._graph.replay()
        return self._features[: len(pixels)]


class _Called:
    """The same without a recording, where there is no CUDA."""

    def __init__(self, function: Function, batch: torch.Tensor) -> None:
        self._pixels = batch.clone()
        self._function = function

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self._pixels[: len(pixels)].copy_(pixels)
        return self._function(self._pixels)[: len(pixels)]


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest distance between two (n, f) rows, as a share of the length of the second."""
    found, wanted = found.float(), wanted.float()
    return float(((found - wanted).norm(dim=1) / wanted.norm(dim=1).clamp_min(1e-12)).max())


class _Check:
    """Raises where features are further from the `exact` ones than the original's can explain."""

    def __init__(self, original: torch.Tensor, exact: torch.Tensor) -> None:
        self._exact = exact
        self._bound = TOLERANCE * difference(original, exact) + 1e-3

    def __call__(self, found: torch.Tensor, how: str) -> None:
        off = difference(found, self._exact)
        if not off <= self._bound:  # also if it is no number
            raise RuntimeError(f"{how}, its features are off by {off:.4f} of their length; {self._bound:.4f} would be rounding")


def _exact(model: Model, pixels: torch.Tensor) -> torch.Tensor:
    """The features in float32, of a few images at a time: activations are twice as large there."""
    network = copy.deepcopy(model.network).float()
    parts = [pixels[at : at + EXACT_BATCH] for at in range(0, len(pixels), EXACT_BATCH)]
    return torch.cat([model.architecture.features(network, normalize(part, model.preprocessing, torch.float32)) for part in parts])


def _weights_of(model: Model, network: nn.Module) -> list[torch.Tensor]:
    """All but the head's, which differ in size from model to model and have no part in features."""
    head = model.architecture.head_name + "."
    return [tensor for name, tensor in network.state_dict().items() if not name.startswith(head)]


@contextmanager
def _giving_way() -> Generator[None, None, None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(GIVE_WAY)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


class _Streams:
    """The compiler's own two.  They are made once: torch hands out 32 in turn, and one more than these could be anybody's.

    cuBLAS has a workspace for each thread and stream, and a graph uses that of the stream it was recorded on.  What is compiled next runs
    while graphs do, so nothing else ever runs on `recording`, or the two would write over each other's sums.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._compiling = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.recording = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def aside(self) -> AbstractContextManager[object]:
        """For what the block tells the device, behind all that it was told before."""
        self._compiling.wait_stream(torch.cuda.default_stream(self._device))
        return torch.cuda.stream(self._compiling)
