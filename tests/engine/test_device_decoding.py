"""Files that a device decodes, many at once: on a CPU the very pixels that each has alone, whatever is wrong with another."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from tests.images.pictures import RED, blocks, encoded, noisy
from tests.images.test_jpeg import with_orientation
from thanoproxy.engine import device_decoding
from thanoproxy.engine.device import Device
from thanoproxy.engine.device_decoding import DECODERS, DeviceDecoder, open_decoder
from thanoproxy.engine.pixels import decode_scaled
from thanoproxy.images.jpeg import PlainJpeg, plain_jpeg
from thanoproxy.models.preprocessing import Preprocessing, center_crop

WAY = Preprocessing(resize=36, crop=32)


def plain(data: bytes) -> PlainJpeg:
    found = plain_jpeg(data)
    assert found is not None
    return found


def photo(width: int, height: int, **options: object) -> PlainJpeg:
    return plain(encoded(noisy(RED, 1, max(width, height)).crop((0, 0, width, height)), "JPEG", **options))


PHOTOS = [photo(90, 60), photo(40, 200, quality=30), photo(36, 36, subsampling=0), plain(encoded(blocks().convert("L"), "JPEG"))]


def damaged(jpeg: PlainJpeg) -> PlainJpeg:
    """One whose header no device takes exception to, and no decoder can use."""
    at = jpeg.data.index(b"\xff\xc4") + 5
    return replace(jpeg, data=jpeg.data[:at] + b"\xff" * 16 + jpeg.data[at + 16 :])


def alone(jpeg: PlainJpeg, way: Preprocessing = WAY) -> torch.Tensor:
    return center_crop(decode_scaled(jpeg.data, way), way)


def differ(found: torch.Tensor | None, wanted: torch.Tensor) -> int:
    assert found is not None
    return int((found.int() - wanted.int()).abs().max())


def device_decoded(monkeypatch: pytest.MonkeyPatch) -> list[PlainJpeg]:
    """What a device is asked to decode from now on; it fills up."""
    seen, inner = list[PlainJpeg](), DeviceDecoder.decode

    def counted(self: DeviceDecoder, jpegs: Sequence[PlainJpeg], preprocessing: Preprocessing) -> list[torch.Tensor | None]:
        seen.extend(jpegs)
        return inner(self, jpegs, preprocessing)

    monkeypatch.setattr(DeviceDecoder, "decode", counted)
    return seen


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest, device: Device) -> DeviceDecoder:
    found = DeviceDecoder(device, DECODERS[request.param](device.device))
    found.try_out()
    return found


@pytest.mark.parametrize("way", [WAY, Preprocessing(resize=50, crop=50, interpolation="bicubic", color="GRAY")], ids=lambda way: way.color)
def test_the_pixels_are_those_of_each_alone(decoder: DeviceDecoder, way: Preprocessing) -> None:
    for jpeg, found in zip(PHOTOS, decoder.decode(PHOTOS, way), strict=True):
        assert differ(found, alone(jpeg, way)) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_they_are_turned_as_exif_says(decoder: DeviceDecoder, orientation: int) -> None:
    jpeg = plain(with_orientation(orientation))
    [found] = decoder.decode([jpeg], WAY)
    assert differ(found, alone(jpeg)) <= 1


def test_one_that_cannot_be_decoded_leaves_its_call_to_the_cpu(decoder: DeviceDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoder.decode([PHOTOS[0], damaged(PHOTOS[1]), PHOTOS[2]], WAY) == [None] * 3
    monkeypatch.setattr(device_decoding, "TOGETHER", PHOTOS[0].pixels + PHOTOS[1].pixels)
    found = decoder.decode([PHOTOS[0], damaged(PHOTOS[1]), PHOTOS[2], PHOTOS[0]], WAY)
    assert found[:2] == [None, None]
    assert differ(found[2], alone(PHOTOS[2])) <= 1
    assert differ(found[3], alone(PHOTOS[0])) <= 1


def test_one_that_is_not_what_its_header_says_is_for_the_cpu(decoder: DeviceDecoder) -> None:
    assert decoder.decode([replace(PHOTOS[0], width=91)], WAY) == [None]


def test_a_call_has_so_many_pixels(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    inner = DECODERS["torchvision"](device.device)

    def counted(encoded: list[torch.Tensor]) -> list[torch.Tensor]:
        calls.append(len(encoded))
        return inner(encoded)

    decoder = DeviceDecoder(device, counted)
    monkeypatch.setattr(device_decoding, "TOGETHER", 2 * PHOTOS[0].pixels)
    assert None not in decoder.decode([PHOTOS[0]] * 5, WAY)
    assert calls == [2, 2, 1]
    calls.clear()
    monkeypatch.setattr(device_decoding, "TOGETHER", 1)
    assert None not in decoder.decode([PHOTOS[0]] * 2, WAY)
    assert calls == [1, 1], "one is not refused"


def test_where_there_is_no_memory_the_cpu_decodes(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    def no_room(encoded: list[torch.Tensor]) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with caplog.at_level(logging.INFO):
        assert DeviceDecoder(device, no_room).decode(PHOTOS, WAY) == [None] * 4
    assert "4 images are decoded by the CPU: CUDA out of memory" in caplog.text


def test_a_device_without_a_decoder_says_so_once(device: Device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def not_there(device: torch.device) -> Callable[[list[torch.Tensor]], list[torch.Tensor]]:
        raise ImportError("no module of that name")

    def without(device: torch.device) -> Callable[[list[torch.Tensor]], list[torch.Tensor]]:
        def fail(encoded: list[torch.Tensor]) -> list[torch.Tensor]:
            raise RuntimeError("not compiled with nvJPEG support")

        return fail

    monkeypatch.setattr(device_decoding, "DECODERS", {"a": not_there, "b": without})
    assert open_decoder(device) is None
    assert "cpu decodes no images, the CPU does: a: no module of that name; b: not compiled with nvJPEG support" in caplog.text
    monkeypatch.setattr(device_decoding, "DECODERS", {"a": not_there, **DECODERS})
    assert open_decoder(device) is not None
