"""PREDICT with the device's own decoder, which on a CPU is no faster: the same predictions, whatever is in a batch."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from PIL import Image

from tests.engine.test_device_decoding import PHOTOS, WAY, alone, damaged, device_decoded, differ
from tests.images.pictures import BLUE, RED, encoded, noisy
from tests.workers.conftest import Rows
from thanoproxy.engine.device import choose
from thanoproxy.engine.device_decoding import DeviceDecoder, open_decoder
from thanoproxy.images.jpeg import PlainJpeg, plain_jpeg
from thanoproxy.models.preprocessing import Preprocessing
from thanoproxy.workers import jobs
from thanoproxy.workers.device_decoding import DeviceDecoding
from thanoproxy.workers.device_loop import DeviceLoop
from thanoproxy.workers.local import LocalPool
from thanoproxy.workers.predicting import BULK, INTERACTIVE
from thanoproxy.workers.settings import WorkerSettings

DEVICE = replace(choose("cpu"), predict_batch=8)


@pytest.fixture(scope="module")
def there(settings: WorkerSettings) -> WorkerSettings:
    """Settings of workers whose device decodes."""
    return msgspec.structs.replace(settings, gpu_decode=True, prediction_cache=0)


@pytest.fixture(scope="module")
def images(settings: WorkerSettings) -> list[jobs.Image]:
    """Photos of all sizes, of which some are turned; and what only the CPU may decode, or nobody."""
    folder = Path(settings.image_roots[0])
    names: list[jobs.Image] = []
    for number in range(24):
        exif = Image.Exif()
        exif[274] = 1 + number % 8
        size = (30 + 7 * number, 90 - 2 * number)
        picture = noisy((RED, BLUE)[number % 2], number, 200).crop((0, 0, *size))
        picture.save(folder / f"{number}.jpg", exif=exif, progressive=number % 12 == 11)
        names.append(f"{number}.jpg")
    return [*names, "0.png", None, encoded(noisy(RED, 5), "JPEG"), "gone.jpg", encoded(noisy(BLUE, 5), "JPEG")[:-30], b"no image"]


class Asked:
    """Device loops, and what they answer."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.loop = DeviceLoop(settings, DEVICE)
        self.replies: queue.SimpleQueue[jobs.Reply] = queue.SimpleQueue()

    def close(self) -> None:
        self.loop.close()

    def begin(self, artifact: str, images: Sequence[jobs.Image], job: str = "p", **more: bool) -> None:
        self.loop.submit(jobs.Predict(job, artifact, list(images), top_k=2, **more), self.replies.put)

    def answer(self) -> jobs.Predicted:
        reply = self.replies.get(timeout=60)
        assert isinstance(reply, jobs.Predicted), reply
        return reply

    def predict(self, artifact: str, images: Sequence[jobs.Image], **more: bool) -> jobs.Predicted:
        self.begin(artifact, images, **more)
        return self.answer()


@pytest.fixture(scope="module")
def wanted(settings: WorkerSettings, artifact: str, images: list[jobs.Image]) -> jobs.Predicted:
    """What loader threads make of them."""
    with closing(Asked(settings)) as asked:
        return asked.predict(artifact, images)


@pytest.fixture
def asked(there: WorkerSettings) -> Iterator[Asked]:
    with closing(Asked(there)) as asked:
        yield asked


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[PlainJpeg]:
    """What the device has been asked to decode."""
    return device_decoded(monkeypatch)


def assert_same(found: jobs.Predicted, wanted: jobs.Predicted) -> None:
    assert found.classes == wanted.classes
    assert found.failures == wanted.failures
    for one, other in zip(found.scores, wanted.scores, strict=True):
        assert one == (other and pytest.approx(other, abs=0.01))


def test_predictions_and_errors_are_the_same(
    asked: Asked, artifact: str, images: list[jobs.Image], wanted: jobs.Predicted, decoded: list[PlainJpeg]
) -> None:
    found = asked.predict(artifact, images)
    assert_same(found, wanted)
    assert set(found.failures) == {27, 28, 29}
    assert len(decoded) == 22 + 1, "all but the progressive ones, and what is no JPEG file or damaged"
    decoded.clear()
    assert_same(asked.predict(artifact, images, bulk=False), wanted)
    assert len(decoded) == 23


def test_a_damaged_image_is_found_and_the_others_are_not_affected(
    asked: Asked, artifact: str, images: list[jobs.Image], wanted: jobs.Predicted, decoded: list[PlainJpeg]
) -> None:
    bad = damaged(PHOTOS[0]).data
    assert plain_jpeg(bad) is not None, "no header tells it"
    found = asked.predict(artifact, [*images[:5], bad, *images[5:24]])
    assert list(found.failures) == [5]
    assert found.failures[5].sqlstate == "22P03"
    assert found.failures[5].message == f"image (bytea of {len(bad)} bytes): the JPEG image is damaged"
    assert found.classes[5] is None
    assert found.classes[:5] + found.classes[6:] == wanted.classes[:24]
    assert len(decoded) == 23


def test_out_of_memory_means_the_cpu(
    asked: Asked, artifact: str, images: list[jobs.Image], wanted: jobs.Predicted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("thanoproxy.engine.device_decoding.scale_and_crop", no_room)
    found = asked.predict(artifact, images)
    assert (found.classes, found.scores, found.failures) == (wanted.classes, wanted.scores, wanted.failures)


def test_what_nobody_expected_means_the_cpu(
    asked: Asked, artifact: str, images: list[jobs.Image], wanted: jobs.Predicted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> list[torch.Tensor | None]:
        raise AssertionError("a mistake of ours")

    monkeypatch.setattr(DeviceDecoder, "decode", wrong)
    assert asked.predict(artifact, images).scores == wanted.scores


async def test_a_worker_process_that_has_decode_processes_beside_it(
    there: WorkerSettings, artifact: str, images: list[jobs.Image], wanted: jobs.Predicted
) -> None:
    pool = LocalPool(msgspec.structs.replace(there, decoders="processes", loader_threads=2))
    await pool.start()
    try:
        asked = {"a": images, "b": [*images, damaged(PHOTOS[0]).data]}
        found = await asyncio.gather(*(pool.predict(jobs.Predict(job, artifact, of, 2)) for job, of in asked.items()))
    finally:
        await pool.close()
    assert_same(found[0], wanted)
    assert found[1].classes == [*wanted.classes, None]
    assert set(found[1].failures) == {27, 28, 29, 30}


class Held:
    """A device that decodes when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.go_on = threading.Semaphore(0)
        inner = DeviceDecoder.decode

        def held(decoder: DeviceDecoder, jpegs: Sequence[PlainJpeg], preprocessing: Preprocessing) -> list[torch.Tensor | None]:
            self.begun.put(len(jpegs))
            assert self.go_on.acquire(timeout=60)
            return inner(decoder, jpegs, preprocessing)

        monkeypatch.setattr(DeviceDecoder, "decode", held)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


def test_it_can_be_canceled_and_is_seen_when_it_hangs(
    held: Held, asked: Asked, artifact: str, images: list[jobs.Image], wanted: jobs.Predicted
) -> None:
    asked.begin(artifact, images[:8], "first", bulk=True)
    assert held.begun.get(timeout=60) == 8
    asked.begin(artifact, images[:8], "second", bulk=True)
    for _ in range(2):
        asked.loop.submit(jobs.Ping("pulse"), asked.replies.put)
    pulses = [asked.replies.get(timeout=60) for _ in range(2)]
    assert [isinstance(pulse, jobs.Pong) and "decoder 0" in pulse.at_work for pulse in pulses] == [True, True]
    for job in ("first", "second"):
        asked.loop.submit(jobs.Cancel(job), lambda reply: None)
        failed = asked.replies.get(timeout=60)
        assert isinstance(failed, jobs.Failed)
        assert (failed.job, failed.failure.sqlstate) == (job, "57014")
    held.go_on.release(10)
    assert asked.predict(artifact, images, bulk=True).classes == wanted.classes, "what was canceled takes no room"
    assert asked.loop._intake._inside == 0


def test_a_worker_that_is_closed_waits_for_nothing(held: Held, there: WorkerSettings, artifact: str, images: list[jobs.Image]) -> None:
    asked = Asked(there)
    for job in ("first", "second"):
        asked.begin(artifact, images[:8], job)
    held.begun.get(timeout=60)
    held.go_on.release()
    asked.close()
    assert {asked.replies.get(timeout=60).job for _ in range(2)} == {"first", "second"}


@pytest.fixture
def decoding() -> Iterator[DeviceDecoding]:
    with closing(DeviceDecoding(DEVICE, open_decoder(DEVICE))) as decoding:
        yield decoding


def results(future: Future[list[torch.Tensor | None]]) -> list[torch.Tensor | None]:
    return future.result(timeout=60)


def test_who_waits_goes_together_interactive_first(held: Held, decoding: DeviceDecoding) -> None:
    other = Preprocessing(resize=20, crop=20)
    futures = [decoding.submit(PHOTOS[:1], WAY, BULK)]
    assert held.begun.get(timeout=60) == 1
    futures += [
        decoding.submit(PHOTOS, WAY, BULK),
        decoding.submit(PHOTOS, other, BULK),
        decoding.submit(PHOTOS[:3], WAY, INTERACTIVE),
        decoding.submit(PHOTOS[:2], WAY, BULK),
        decoding.submit(PHOTOS[1:2], WAY, BULK),
    ]
    futures[-2].cancel()
    held.go_on.release(10)
    found = [results(future) for number, future in enumerate(futures) if number != 4]
    begun = [held.begun.get(timeout=60) for _ in range(2)]
    assert begun == [8, 4], "eight are a batch; what is cropped in another way goes alone"
    assert [len(of) for of in found] == [1, 4, 4, 3, 1]
    assert differ(found[3][2], alone(PHOTOS[2])) <= 1
    assert differ(found[2][1], alone(PHOTOS[1], other)) <= 1


def test_what_waits_takes_so_much_memory(decoding: DeviceDecoding) -> None:
    one = encoded(noisy(RED, 1, 64), "JPEG")
    small = DeviceDecoding(DEVICE, None, held=2 * len(one))
    jpegs = [plain_jpeg(one) for _ in range(3)]
    assert [small.admit(jpeg) for jpeg in jpegs if jpeg is not None] == [True, True, False]
    jpegs.clear()
    again = [plain_jpeg(one) for _ in range(3)]
    assert [small.admit(jpeg) for jpeg in again if jpeg is not None] == [True, True, False]


def test_predictions_are_kept_of_the_devices_pixels_alone(
    there: WorkerSettings, artifact: str, images: list[jobs.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another decoder made in its place is computed anew: what a name stands for does not hang on who was in the batch."""
    fine = [encoded(noisy(RED, seed, 50), "JPEG") for seed in range(4)]
    with closing(Asked(msgspec.structs.replace(there, prediction_cache=1 << 20))) as asked:

        def computed(images: list[bytes]) -> int:
            return asked.predict(artifact, images, cache=True).computed

        assert computed([*fine, damaged(PHOTOS[0]).data]) == 5
        assert [computed(fine) for _ in range(2)] == [4, 0]
        progressive = [encoded(noisy(RED, seed, 50), "JPEG", progressive=True) for seed in range(4)]
        assert [computed(progressive) for _ in range(2)] == [4, 0], "whose decoder is always the CPU's"
        monkeypatch.setattr(DeviceDecoding, "admit", lambda *_: False)
        more = [encoded(noisy(BLUE, seed, 50), "JPEG") for seed in range(4)]
        assert [computed(more) for _ in range(2)] == [4, 4]


def test_unless_the_settings_say_so_the_device_decodes_nothing(
    settings: WorkerSettings, artifact: str, images: list[jobs.Image], decoded: list[PlainJpeg], rows: Rows
) -> None:
    with closing(Asked(settings)) as asked:
        asked.predict(artifact, images[:8])
    assert decoded == []
