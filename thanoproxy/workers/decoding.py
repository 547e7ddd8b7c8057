"""Decoding in processes of their own, one for each loader thread, which waits for it: for machines with a GPU and many cores.

Decoding releases the GIL, but takes it between any two steps, and sixteen threads that do so keep the one waiting that launches kernels.  A
process has its own.  Pixels come back through memory that both sides have mapped; it has no name (memfd), so nothing is left of it however
they end.  A process that dies is replaced and asked again; an image that kills two of them is to blame.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

import msgspec
import torch

from thanoproxy.engine.device import Device, cores
from thanoproxy.engine.device_decoding import open_decoder
from thanoproxy.engine.pixels import decode_elsewhere
from thanoproxy.errors import InvalidImage, ThanoError, WorkerFailure
from thanoproxy.images.loader import LoaderThreads
from thanoproxy.images.source import shown
from thanoproxy.models.preprocessing import Preprocessing
from thanoproxy.workers.decoder import Crop, Failed, Pixels, Ready, Scale, receive, send
from thanoproxy.workers.device_decoding import DeviceDecoding
from thanoproxy.workers.settings import WorkerSettings
from thanoproxy.workers.spawning import environment, how_it_ended

__all__ = ["DecodeProcess", "device_decoding_for", "loaders_for"]

MANY_CORES = 8
DEATHS = 2
"""Of processes at an image's work that make it guilty."""

STARTS = 5
STOP_SECONDS = 5.0

log = logging.getLogger(__name__)

_decode_answer = msgspec.msgpack.Decoder(Ready | Pixels | Failed).decode


def loaders_for(settings: WorkerSettings, device: Device, on_start: Callable[[], None]) -> LoaderThreads:
    """Loader threads as the settings want them, each with a process behind it where that is worth it."""
    mine = max(1, cores() // device.siblings)
    processes = settings.decoders == "processes" or (settings.decoders == "auto" and device.is_cuda and mine > MANY_CORES)
    if not processes:
        return LoaderThreads(settings.loader_threads or cores(), on_start)
    here = threading.local()

    def begin() -> None:
        on_start()
        here.process = DecodeProcess(settings)
        here.process.start()
        decode_elsewhere(here.process)

    def end() -> None:
        here.process.close()

    return LoaderThreads(settings.loader_threads or mine, begin, end)


def device_decoding_for(settings: WorkerSettings, device: Device, on_start: Callable[[], None]) -> DeviceDecoding:
    """What the device decodes itself: nothing, unless the settings say so and it can."""
    return DeviceDecoding(device, open_decoder(device) if settings.gpu_decode else None, on_start)


class DecodeProcess:
    """A decode process, and the next one when it dies.  Only one thread may use it."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._running: _Running | None = None

    @property
    def pid(self) -> int | None:
        return None if self._running is None else self._running.pid

    def start(self) -> None:
        """So that whoever asks first waits less."""
        try:
            self._running = _Running(self._settings)
        except OSError:
            log.exception("a process that decodes images cannot be started")

    def cropped(self, image: str | bytes, row: int, preprocessing: Preprocessing) -> torch.Tensor:
        """See `thanoproxy.engine.pixels.read_cropped`."""
        return self._ask(Crop(image, row, preprocessing), lambda: f"image {shown(image)}: ", row)

    def scaled(self, encoded: bytes, preprocessing: Preprocessing) -> torch.Tensor:
        """See `thanoproxy.engine.pixels.decode_scaled`."""
        return self._ask(Scale(encoded, preprocessing), lambda: "", None)

    def close(self) -> None:
        if self._running is not None:
            self._running.end()
            self._running = None

    def _ask(self, request: Crop | Scale, name: Callable[[], str], row: int | None) -> torch.Tensor:
        deaths = starts = 0
        while deaths < DEATHS and starts < STARTS:
            running = self._running
            try:
                if running is None:
                    starts += 1
                    running = self._running = _Running(self._settings)
                return running.ask(request)
            except ConnectionError:
                assert running is not None, "it was asked"
                how = running.end()
                log.error("decode process %d is gone: %s", running.pid, how)  # noqa: TRY400 - the trace is ours, not the process's
                self._running = None
                deaths += running.ready
            except OSError as error:
                raise WorkerFailure("a process that decodes images cannot be started", detail=str(error), row=row) from error
        if deaths < DEATHS:
            raise WorkerFailure("processes that decode images die when they are started", detail=how, row=row)
        raise InvalidImage(f"{name()}processes that decode it die of it", detail=how, row=row)


class _Running:
    """One process, from its start to its end."""

    def __init__(self, settings: WorkerSettings) -> None:
        memory = os.memfd_create("pixels")
        try:
            self._socket, theirs = socket.socketpair()
            with theirs:
                # Its worker's own signals, GPU and compute threads are none of its business.
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "thanoproxy.workers.decoder", str(theirs.fileno()), str(memory)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), memory),
                    env={**environment(), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
                    start_new_session=True,
                )
        except BaseException:
            os.close(memory)
            raise
        self._memory = memory
        self._map: mmap.mmap | None = None
        self.ready = False
        """Whether it has been asked something."""
        with contextlib.suppress(ConnectionError):  # gone already: whoever asks it will know
            send(self._socket, settings)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: Crop | Scale) -> torch.Tensor:
        """Raises what is wrong with the image, or `ConnectionError` if the process died."""
        if not self.ready:
            _decode_answer(receive(self._socket))
            self.ready = True
        send(self._socket, request)
        answer = _decode_answer(receive(self._socket))
        if isinstance(answer, Failed):
            raise ThanoError.from_fields(msgspec.structs.asdict(answer.failure))
        assert isinstance(answer, Pixels), "it is ready only once"
        return self._take(answer.shape)

    def end(self) -> str:
        """End it, if it still runs; how it ended."""
        assert self._process.stdin is not None, "a pipe"
        self._socket.close()
        self._process.stdin.close()
        os.close(self._memory)
        self._map = None
        try:
            status = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        return how_it_ended(status)

    def _take(self, shape: tuple[int, ...]) -> torch.Tensor:
        """A copy, so that the process can go on with the next one."""
        size = torch.Size(shape).numel()
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self._memory, size)
        return torch.frombuffer(self._map, dtype=torch.uint8, count=size).view(shape).clone()
