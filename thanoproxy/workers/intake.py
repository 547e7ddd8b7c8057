"""The way of a PREDICT's chunks to the device: images are read and decoded ahead of it, on loader threads or by the device's own decoder.

At most `window` rows of bulk requests are decoded ahead, which bounds memory however much is queued; interactive ones are always let in.
Of bulk ones a chunk of each statement is let in by turns: all of a statement's requests are here at once, and whoever came behind a few
such would else wait for hundreds of rows before the first of his own.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial

import torch

from thanoproxy.engine.pixels import read_cropped, read_plain, read_scaled
from thanoproxy.errors import InternalError, ThanoError
from thanoproxy.images import Sources
from thanoproxy.images.jpeg import PlainJpeg
from thanoproxy.images.loader import LoaderThreads, Steps
from thanoproxy.models.preprocessing import center_crop
from thanoproxy.workers.device_decoding import Decoded, DeviceDecoding
from thanoproxy.workers.predicting import Chunk, Prediction, Read

__all__ = ["Intake"]


class Intake:
    """Chunks that wait to be decoded or are being decoded.

    Everything here happens under `lock`, which the caller holds for `add`, `done` and `drop`; `on_ready` is called under it too.

        read, and decoded, on loader threads --+-- all of it is pixels ----------------------------------- ready
                                               +-- the device decodes the rest --+------------------------ ready
                                                                                 +-- loader threads do --- ready
    """

    def __init__(
        self,
        sources: Sources,
        threads: LoaderThreads,
        lock: threading.Condition,
        window: int,
        on_ready: Callable[[Chunk], None],
        device: DeviceDecoding,
    ) -> None:
        self._sources = sources
        self._threads = threads
        self._lock = lock
        self._window = window
        self._on_ready = on_ready
        self._device = device
        self._waiting: dict[object, deque[Chunk]] = {}  # by statement; whose turn is next comes first
        self._inside = 0
        self._count = 0

    def add(self, prediction: Prediction) -> None:
        """Begin with a request's chunks, as far as the window lets them in."""
        for chunk in prediction.chunks:
            if chunk.bulk:
                self._waiting.setdefault(prediction.statement, deque()).append(chunk)
            else:
                self._decode(chunk)
        self._let_in()

    def done(self, chunk: Chunk) -> None:
        """The device has finished with a chunk that was ready."""
        self._leave(chunk)

    def drop(self, prediction: Prediction) -> None:
        """Forget a request; what has not been begun never will be."""
        others = deque(chunk for chunk in self._waiting.pop(prediction.statement, ()) if chunk.prediction is not prediction)
        if others:
            self._waiting[prediction.statement] = others
        for chunk in prediction.chunks:
            for future in (*chunk.futures.values(), chunk.decoded):
                if future is not None:
                    future.cancel()

    def _let_in(self) -> None:
        while self._waiting:
            statement, chunks = next(iter(self._waiting.items()))
            if self._inside and self._inside + len(chunks[0].images) > self._window:
                return
            chunk = chunks.popleft()
            del self._waiting[statement]
            if chunks:
                self._waiting[statement] = chunks
            self._inside += len(chunk.images)
            self._decode(chunk)

    def _leave(self, chunk: Chunk) -> None:
        if chunk.bulk:
            self._inside -= len(chunk.images)
            self._let_in()

    def _decode(self, chunk: Chunk) -> None:
        self._count += 1
        chunk.order = self._count
        reading = {image: self._threads.submit(partial(self._read, chunk.prediction, image), chunk.priority) for image in chunk.images}
        self._wait_for(chunk, reading)

    def _decode_here(self, chunk: Chunk, jpegs: Mapping[int, PlainJpeg]) -> None:
        work = {image: partial(self._read_here, chunk.prediction, image, jpeg) for image, jpeg in jpegs.items()}
        self._wait_for(chunk, {image: self._threads.submit(read, chunk.priority) for image, read in work.items()})

    def _wait_for(self, chunk: Chunk, futures: dict[int, Future[Read]]) -> None:
        chunk.left, chunk.futures = len(futures), futures
        for image, future in futures.items():
            future.add_done_callback(partial(self._decoded, chunk, image))

    def _read(self, prediction: Prediction, image: int) -> Steps[Read]:
        named, row, preprocessing = prediction.images[image], prediction.first_rows[image], prediction.model.preprocessing
        if not self._device:
            pixels: torch.Tensor | PlainJpeg = yield from read_cropped(self._sources, named, row, preprocessing)
        else:
            pixels = yield from read_plain(self._sources, named, row, preprocessing)
            if isinstance(pixels, PlainJpeg) and not self._device.admit(pixels):
                return self._read_here(prediction, image, pixels)
        after = self._sources.stamps([named])[0] if image in prediction.keeping else None
        return Read(pixels, None if after is None else after.mark)

    def _read_here(self, prediction: Prediction, image: int, jpeg: PlainJpeg) -> Read:
        """What the device was to decode.  What comes of other pixels than its is not kept, so that a name says what they were."""
        named, row, preprocessing = prediction.images[image], prediction.first_rows[image], prediction.model.preprocessing
        return Read(center_crop(read_scaled(jpeg.data, named, row, preprocessing), preprocessing), None)

    def _decoded(self, chunk: Chunk, image: int, future: Future[Read]) -> None:
        prediction = chunk.prediction
        with self._lock:
            chunk.left -= 1
            if not future.cancelled():
                error = future.exception()
                if isinstance(error, ThanoError):
                    prediction.fail(image, error)
                elif error is not None:
                    row = prediction.first_rows[image]
                    prediction.fail(image, InternalError("an image could not be read", detail=repr(error), row=row))
            if chunk.left:
                return
            if prediction.canceled:
                self._leave(chunk)
                return
            for image, one in chunk.futures.items():
                if not prediction.failed(image):
                    chunk.take(image, one.result())
            chunk.futures = {}
            if chunk.jpegs:
                self._on_device(chunk)
            else:
                self._is_ready(chunk)

    def _on_device(self, chunk: Chunk) -> None:
        chunk.decoded = self._device.submit(list(chunk.jpegs.values()), chunk.prediction.model.preprocessing, chunk.priority)
        chunk.decoded.add_done_callback(partial(self._device_decoded, chunk))

    def _device_decoded(self, chunk: Chunk, future: Future[Decoded]) -> None:
        prediction = chunk.prediction
        with self._lock:
            jpegs, chunk.jpegs, chunk.decoded = chunk.jpegs, {}, None
            if prediction.canceled or future.cancelled():
                self._leave(chunk)
                return
            for image, pixels in zip(list(jpegs), future.result(), strict=True):
                if pixels is not None:
                    chunk.pixels[image] = pixels
                    del jpegs[image]
            if jpegs:
                self._decode_here(chunk, jpegs)
            else:
                self._is_ready(chunk)

    def _is_ready(self, chunk: Chunk) -> None:
        # In the order of the images, whichever thread was first.
        chunk.pixels = {image: chunk.pixels[image] for image in chunk.images if image in chunk.pixels}
        self._on_ready(chunk)
