"""JPEG files decoded and scaled by the device itself, many at once, so that no core has to: for prediction.

What it may be given is `thanoproxy.images.jpeg`'s to say; scaling is `thanoproxy.models.resampling`'s.  On CUDA nvJPEG decodes, as
torchcodec or torchvision calls it; on a CPU the same functions use libjpeg-turbo, which gains nothing, but is how all of this is tested.
"""

from __future__ import annotations

import importlib
import io
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager

import torch
from PIL import Image

from thanoproxy.engine.device import Device, is_out_of_memory
from thanoproxy.images.jpeg import PlainJpeg, plain_jpeg
from thanoproxy.models.preprocessing import Preprocessing
from thanoproxy.models.resampling import scale_and_crop

__all__ = ["DECODERS", "DeviceDecoder", "open_decoder"]

DecodeAll = Callable[[list[torch.Tensor]], list[torch.Tensor]]
"""uint8 (bytes) each, on the CPU -> uint8 (3, h, w) each, RGB, on the device.  Raises if it cannot decode one of them."""

TOGETHER = 64_000_000
"""Pixels that are decoded in one call at most: 192 MB."""

log = logging.getLogger(__name__)


def open_decoder(device: Device) -> DeviceDecoder | None:
    """The first of `DECODERS` that works on `device`; None, and a line in the log, if there is none."""
    problems = []
    for name, find in DECODERS.items():
        try:
            decoder = DeviceDecoder(device, find(device.device))
            decoder.try_out()
        except Exception as error:  # not installed, built for another torch or without nvJPEG, a driver without it
            problems.append(f"{name}: {error}")
        else:
            return decoder
    log.warning("%s decodes no images, the CPU does: %s", device.name, "; ".join(problems))
    return None


def _torchcodec(device: torch.device) -> DecodeAll:
    codec = importlib.import_module("torchcodec.decoders")
    return lambda encoded: codec.decode_jpeg(encoded, mode=codec.ImageReadMode.RGB, device=device)


def _torchvision(device: torch.device) -> DecodeAll:
    rgb = importlib.import_module("torchvision.io").ImageReadMode.RGB.value
    # What `torchvision.io.decode_jpeg` calls, which from 0.29 on warns that torchcodec is better; 0.26 to 0.29 have the same operators.
    operators = torch.ops.image
    if device.type == "cuda":
        return lambda encoded: operators.decode_jpegs_cuda(encoded, rgb, device)
    return lambda encoded: [operators.decode_jpeg(one, rgb) for one in encoded]


DECODERS: dict[str, Callable[[torch.device], DecodeAll]] = {"torchcodec": _torchcodec, "torchvision": _torchvision}


class DeviceDecoder:
    """Only one thread may use it; on CUDA what it does there has a stream of its own."""

    def __init__(self, device: Device, decode_all: DecodeAll) -> None:
        self._device = device
        self._decode_all = decode_all
        self._stream = torch.cuda.Stream(device.device) if device.is_cuda else None  # type: ignore[no-untyped-call]

    def decode(self, jpegs: Sequence[PlainJpeg], preprocessing: Preprocessing) -> list[torch.Tensor | None]:
        """uint8 (3, crop, crop) each, there when this returns.

        None stands for what the CPU has to decode: an image that cannot be decoded, and those that were in one call with it; all of a call
        for which there was no memory.
        """
        return [pixels for some in _calls(jpegs) for pixels in self._try(some, preprocessing)]

    def try_out(self) -> None:
        """Raises if it does not work."""
        file = io.BytesIO()
        Image.new("RGB", (64, 48), (200, 100, 50)).save(file, "JPEG")
        jpeg = plain_jpeg(file.getvalue())
        assert jpeg is not None, "Pillow writes plain ones"
        self._decode([jpeg, jpeg], Preprocessing(resize=32, crop=32))

    def _try(self, jpegs: Sequence[PlainJpeg], preprocessing: Preprocessing) -> Sequence[torch.Tensor | None]:
        try:
            return self._decode(jpegs, preprocessing)
        except (RuntimeError, ValueError) as error:  # if it is the end of the device, the next batch will tell
            # torchvision's and torchcodec's decoders make an error of their own of torch's.
            no_memory = "out of memory" in str(error) or (isinstance(error, RuntimeError) and is_out_of_memory(error))
            log.info("%d images are decoded by the CPU: %s", len(jpegs), error)
        # Outside of the handler, whose traceback keeps the failed attempt's tensors alive.
        if no_memory:
            self._device.release()
        return [None] * len(jpegs)

    @torch.inference_mode()
    def _decode(self, jpegs: Sequence[PlainJpeg], preprocessing: Preprocessing) -> list[torch.Tensor]:
        with self._on_its_stream():
            encoded = [torch.frombuffer(jpeg.without_exif(), dtype=torch.uint8) for jpeg in jpegs]
            decoded = self._decode_all(encoded)
            for jpeg, pixels in zip(jpegs, decoded, strict=True):
                if pixels.shape != (3, jpeg.height, jpeg.width):
                    raise ValueError(f"an image of {jpeg.width}x{jpeg.height} pixels was decoded to {tuple(pixels.shape)}")
            return scale_and_crop([_upright(pixels, jpeg.orientation) for jpeg, pixels in zip(jpegs, decoded, strict=True)], preprocessing)

    @contextmanager
    def _on_its_stream(self) -> Generator[None, None, None]:
        """When the block ends, what was told in it is done."""
        if self._stream is None:
            yield
            return
        # torchvision's decoder keeps to the device that is current when it is first called.
        with torch.cuda.device(self._device.device), torch.cuda.stream(self._stream):
            try:
                yield
            except BaseException:
                torch.cuda.synchronize(self._device.device)  # nvJPEG, on a stream of its own, may still use what it was given
                raise
            # Who waits sleeps: a thread that spins takes a core from others.
            done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            done.record(self._stream)
            done.synchronize()


def _calls(jpegs: Sequence[PlainJpeg]) -> Iterator[Sequence[PlainJpeg]]:
    begin = pixels = 0
    for at, jpeg in enumerate(jpegs):
        if at > begin and pixels + jpeg.pixels > TOGETHER:
            yield jpegs[begin:at]
            begin, pixels = at, 0
        pixels += jpeg.pixels
    yield jpegs[begin:]


# EXIF's orientations, as `PIL.ImageOps.exif_transpose` turns them.
_TURNS: dict[int, Callable[[torch.Tensor], torch.Tensor]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels.flip(2),
    3: lambda pixels: pixels.flip(1, 2),
    4: lambda pixels: pixels.flip(1),
    5: lambda pixels: pixels.mT,
    6: lambda pixels: pixels.mT.flip(2),
    7: lambda pixels: pixels.mT.flip(1, 2),
    8: lambda pixels: pixels.mT.flip(1),
}


def _upright(pixels: torch.Tensor, orientation: int) -> torch.Tensor:
    return _TURNS[orientation](pixels)
