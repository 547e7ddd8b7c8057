"""What only a GPU can show: the same answers as a CPU's, whatever overlaps there; and that its failures are survived.

It needs torch, torchvision, Pillow, NumPy, safetensors, msgspec and pytest, and nothing else of this project's: elsewhere run it with

    python -m pytest --noconftest -c /dev/null --rootdir . -q tests/gpu
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from thanoproxy.catalog.artifacts import ArtifactStore, open_store
from thanoproxy.engine.compiling import Compiler, difference
from thanoproxy.engine.device import Device, choose
from thanoproxy.engine.device_decoding import DeviceDecoder, open_decoder
from thanoproxy.engine.inference import Launched, Part, Predictor
from thanoproxy.engine.model import Model, load_model, save_model
from thanoproxy.engine.pixels import decode_scaled
from thanoproxy.engine.ranking import rank
from thanoproxy.engine.ranks import Leader
from thanoproxy.engine.shares import Share
from thanoproxy.errors import DeviceOutOfMemory
from thanoproxy.images.jpeg import PlainJpeg, plain_jpeg
from thanoproxy.models import registry
from thanoproxy.models.preprocessing import Preprocessing, center_crop, normalize, scale
from thanoproxy.models.resampling import scale_and_crop
from thanoproxy.workers import jobs
from thanoproxy.workers.device_loop import DeviceLoop
from thanoproxy.workers.local import LocalPool
from thanoproxy.workers.settings import WorkerSettings
from thanoproxy.workers.spool import SpoolWriter

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

DEADLY = Path(__file__).parent / "deadly"
SIDE = 64
PROBABILITIES: tuple[jobs.Vector, ...] = ("probabilities",)


@pytest.fixture(scope="module")
def device() -> Device:
    device = choose("cuda:0")
    device.enter()
    return device


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> WorkerSettings:
    """Pictures in two colours, and nothing else."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "images").mkdir()
    for number in range(300):
        noise = np.random.default_rng(number).integers(-60, 60, (96, 128, 3))
        picture = np.clip(noise + ((200, 60, 60), (60, 60, 200))[number % 2], 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"{number}.png")
    return WorkerSettings(
        artifacts_url=(folder / "models").as_uri(), image_roots=(str(folder / "images"),), devices=("cuda:0",), compile="off"
    )


@pytest.fixture(scope="module")
def artifact(settings: WorkerSettings, device: Device, tmp_path_factory: pytest.TempPathFactory) -> str:
    """ConvNeXt_Tiny from scratch on the GPU, which tells the colours apart."""
    built = _build(settings, device, tmp_path_factory.mktemp("spools"))
    assert (built.metrics["validation_accuracy"] or 0) > 0.9
    return built.artifact


@pytest.fixture(scope="module")
def store(settings: WorkerSettings) -> ArtifactStore:
    return open_store(settings.artifacts_url)


@pytest.fixture
def model(store: ArtifactStore, artifact: str, device: Device) -> Model:
    return load_model(store, artifact, device)


@pytest.fixture
def little_memory(device: Device) -> Iterator[None]:
    """Two hundred megabytes more than is in use."""
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device.device)
    assert free > 1 << 30
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device.device) + (200 << 20)) / total, device.device)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, device.device)
    torch.cuda.empty_cache()


def _build(settings: WorkerSettings, device: Device, folder: Path, **options: object) -> jobs.Built:
    replies: queue.SimpleQueue[jobs.Reply] = queue.SimpleQueue()
    chosen: dict[str, object] = {"input_size": SIDE, "pretrained": False, "tune": "full", "epochs": 3, "batch_size": 16, **options}
    with SpoolWriter(str(folder)) as spool, closing(DeviceLoop(settings, device)) as loop:
        for number in range(120):
            spool.add(f"{number}.png", ("red", "blue")[number % 2])
        spool.finish()
        request = jobs.Build("build", "ConvNeXt_Tiny", spool.path, jobs.TrainOptions(**chosen))  # type: ignore[arg-type]
        loop.submit(request, replies.put)
        while isinstance(reply := replies.get(timeout=300), jobs.Progress | jobs.Remark):
            pass
    assert isinstance(reply, jobs.Built), reply
    return reply


def _predict(settings: WorkerSettings, device: Device, artifact: str, images: list[str]) -> list[tuple[int, ...] | None]:
    """By requests of 32 rows, all at once."""
    replies: queue.SimpleQueue[jobs.Reply] = queue.SimpleQueue()
    parts = [images[at : at + 32] for at in range(0, len(images), 32)]
    with closing(DeviceLoop(settings, device)) as loop:
        for number, part in enumerate(parts):
            loop.submit(jobs.Predict(f"{number:04}", artifact, [*part]), replies.put)
        answers = sorted((replies.get(timeout=300) for _ in parts), key=lambda answer: answer.job)
    assert all(isinstance(answer, jobs.Predicted) and not answer.failures for answer in answers), answers
    return [classes for answer in answers if isinstance(answer, jobs.Predicted) for classes in answer.classes]


@pytest.mark.parametrize("decoders", ["threads", "processes"])
def test_the_answers_are_the_cpus(settings: WorkerSettings, device: Device, artifact: str, decoders: str) -> None:
    chosen = msgspec.structs.replace(settings, decoders=decoders)
    images = [f"{number}.png" for number in range(300)] * 4
    small = replace(device, predict_batch=64)  # so that many batches overlap
    there, here = _predict(chosen, small, artifact, images), _predict(settings, choose("cpu"), artifact, images[:300])
    assert there[:300] == there[300:600] == there[600:900]
    assert sum(a == b for a, b in zip(there, here, strict=False)) >= 0.99 * 300


def test_batches_of_changing_sizes_do_not_run_into_each_other(model: Model, device: Device) -> None:
    """Each is staged while others compute, in memory that they have used."""
    predictor, draw = Predictor(device), torch.Generator().manual_seed(0)
    sizes = [int(size) for size in torch.randint(1, 200, (60,), generator=draw)]
    batches = [list(torch.randint(0, 256, (size, 3, SIDE, SIDE), dtype=torch.uint8, generator=draw)) for size in sizes]
    alone = [predictor.launch([Part(model, len(batch), {"features"})], batch).collect() for batch in batches]
    under_way = [predictor.launch([Part(model, len(batch), {"features"})], batch) for batch in batches]
    for launched, wanted in zip(under_way, alone, strict=True):
        found = launched.collect()
        features = [
            torch.stack([torch.frombuffer(bytearray(vectors["features"]), dtype=torch.float32) for vectors in of]) for of in (found, wanted)
        ]
        assert difference(*features) < 0.01


def test_a_launch_does_not_wait_for_the_device(model: Model, device: Device) -> None:
    predictor = Predictor(device)
    batch = list(torch.zeros((64, 3, SIDE, SIDE), dtype=torch.uint8))
    for _ in range(3):
        predictor.launch([Part(model, 64, PROBABILITIES)], batch).collect()
    torch.cuda._sleep(2_000_000_000)  # cycles: about a second
    started = time.monotonic()
    launched = predictor.launch([Part(model, 64, PROBABILITIES)], batch)
    told = time.monotonic() - started
    launched.collect()
    assert time.monotonic() - started > 2 * told, "it was told long before it was done"


def test_a_compiled_network_agrees_and_is_used_for_other_models(model: Model, store: ArtifactStore, device: Device) -> None:
    torch.manual_seed(9)
    network = model.architecture.make(3, pretrained=False)
    saved = save_model(
        store, network, model.architecture, classes=["a", "b", "c"], preprocessing=model.preprocessing, metrics={}, options={}
    )
    other, small = load_model(store, saved.id, device), replace(device, predict_batch=32)
    pixels = torch.randint(0, 256, (32, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)).to(device.device)
    busy = threading.Lock()  # as between the threads of a worker: nothing is replayed while something is recorded

    def features(one: Model, count: int) -> torch.Tensor | None:
        with busy:
            return compiler.features(one, pixels[:count])

    with closing(Compiler(small, busy)) as compiler, torch.inference_mode():
        until = time.monotonic() + 280
        while features(model, 32) is None or not next(iter(compiler._networks.values())).complete:
            assert time.monotonic() < until, "not compiled in time: the log says why"
            time.sleep(0.1)
        for one in (model, other, model):
            for count in (32, 20, 9, 3):
                found = features(one, count)
                assert found is not None
                wanted = one.features(normalize(pixels[:count], one.preprocessing, one.dtype))
                assert difference(found, wanted) < 0.05


def best(launched: Launched) -> list[tuple[int, ...]]:
    """Of each image the class it most likely has."""
    return [ranked.classes for ranked in rank([vectors["probabilities"] for vectors in launched.collect()], 1)]


def test_a_batch_too_large_for_the_memory_is_halved(model: Model, device: Device, little_memory: None) -> None:
    draw = torch.Generator().manual_seed(2)
    images = list(torch.randint(0, 256, (2048, 3, SIDE, SIDE), dtype=torch.uint8, generator=draw))
    predictor = Predictor(device)
    together = best(predictor.launch([Part(model, len(images), PROBABILITIES)], images))
    assert torch.cuda.memory_stats(device.device)["num_ooms"] > 0, "it did not fit"
    launches = (predictor.launch([Part(model, 32, PROBABILITIES)], images[at : at + 32]) for at in range(0, len(images), 32))
    apart = [classes for launched in launches for classes in best(launched)]
    same = sum(a == b for a, b in zip(together, apart, strict=True))
    assert same >= 0.99 * len(images)


def test_not_even_one_image(model: Model, device: Device) -> None:
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info(device.device)[1]
    predictor = Predictor(device)
    try:
        torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved(device.device) / total, device.device)
        with pytest.raises(DeviceOutOfMemory):
            predictor.launch([Part(model, 1, PROBABILITIES)], list(torch.zeros((1, 3, 2048, 2048), dtype=torch.uint8)))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device.device)
    assert len(predictor.launch([Part(model, 1, PROBABILITIES)], list(torch.zeros((1, 3, SIDE, SIDE), dtype=torch.uint8))).collect()) == 1


def test_a_training_step_too_large_for_the_memory_is_done_in_parts(settings: WorkerSettings, device: Device, tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info(device.device)[1]
    reserved, before = torch.cuda.memory_reserved(device.device), torch.cuda.memory_stats(device.device)["num_ooms"]
    torch.cuda.set_per_process_memory_fraction((reserved + (900 << 20)) / total, device.device)
    try:
        built = _build(settings, device, tmp_path, input_size=128, batch_size=90, epochs=1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device.device)
    assert torch.cuda.memory_stats(device.device)["num_ooms"] > before, "it did not fit"
    assert built.log[0].loss == built.log[0].loss, "a number"


def test_the_same_training_gives_the_same_model_but_for_rounding(settings: WorkerSettings, device: Device, tmp_path: Path) -> None:
    first, second = (_build(settings, device, tmp_path, epochs=1).log[0] for _ in range(2))
    assert first.loss == pytest.approx(second.loss, rel=0.02)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("color", ["RGB", "GRAY"])
def test_images_scaled_at_once_are_those_that_the_cpu_scales(device: Device, interpolation: str, color: str) -> None:
    """Also where float32 is computed as TF32, which `choose` allows."""
    draw = torch.Generator().manual_seed(4)
    sizes = [(375, 500), (500, 333), (60, 90), (224, 224), (2000, 300), (1500, 1201)]
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=draw) for size in sizes]
    way = msgspec.convert({"resize": 236, "crop": 224, "interpolation": interpolation, "color": color}, Preprocessing)
    for image, found in zip(images, scale_and_crop([image.to(device.device) for image in images], way), strict=True):
        different = (found.cpu().int() - center_crop(scale(image, way), way).int()).abs()
        assert int(different.max()) <= 1
        assert float((different > 0).float().mean()) < 0.003


@pytest.fixture(scope="module")
def decoder(device: Device) -> DeviceDecoder:
    decoder = open_decoder(device)
    if decoder is None:
        pytest.skip("neither torchcodec nor torchvision has nvJPEG here")
    return decoder


@pytest.fixture(scope="module")
def photos(settings: WorkerSettings) -> list[str]:
    """The pictures again, larger and as JPEG files: turned, grey, with fewer colours, and every tenth one progressive."""
    folder = Path(settings.image_roots[0])
    names = []
    for number in range(200):
        exif = Image.Exif()
        exif[274] = 1 + number % 8
        with Image.open(folder / f"{number}.png") as picture:
            larger = picture.resize((200 + number, 400 - number), Image.Resampling.BICUBIC)
            larger.save(folder / f"{number}.jpg", exif=exif, quality=90, subsampling=number % 3, progressive=number % 10 == 9)
        names.append(f"{number}.jpg")
    return names


def _plain(settings: WorkerSettings, photos: list[str]) -> list[PlainJpeg]:
    found = [plain_jpeg((Path(settings.image_roots[0]) / name).read_bytes()) for name in photos]
    return [jpeg for jpeg in found if jpeg is not None]


def _damaged(jpeg: PlainJpeg) -> PlainJpeg:
    """With code lengths that no Huffman table has."""
    at = jpeg.data.index(b"\xff\xc4") + 5
    return replace(jpeg, data=jpeg.data[:at] + b"\xff" * 16 + jpeg.data[at + 16 :])


def test_pixels_that_it_decodes_are_nearly_the_cpus(decoder: DeviceDecoder, settings: WorkerSettings, photos: list[str]) -> None:
    way, jpegs = Preprocessing(resize=236, crop=224), _plain(settings, photos)
    assert len(jpegs) == 180
    for jpeg, found in zip(jpegs, decoder.decode(jpegs, way), strict=True):
        assert found is not None
        wanted = center_crop(decode_scaled(jpeg.data, way), way)
        assert float((found.cpu().float() - wanted.float()).abs().mean()) < 4


def test_an_image_that_it_cannot_decode_and_one_that_does_not_fit(
    decoder: DeviceDecoder, device: Device, settings: WorkerSettings, photos: list[str]
) -> None:
    way, jpegs = Preprocessing(resize=236, crop=224), _plain(settings, photos)
    assert decoder.decode([*jpegs[:5], _damaged(jpegs[5])], way) == [None] * 6
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info(device.device)[1]
    try:
        torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved(device.device) / total, device.device)
        assert decoder.decode(jpegs, way) == [None] * len(jpegs)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device.device)
    assert None not in decoder.decode(jpegs, way)


@pytest.mark.parametrize("decoders", ["threads", "processes"])
def test_predictions_of_what_it_decodes_are_the_cpus(
    decoder: DeviceDecoder, settings: WorkerSettings, device: Device, artifact: str, photos: list[str], decoders: str
) -> None:
    """In batches with others, which overlap; and where a damaged image is among them."""
    chosen = msgspec.structs.replace(settings, gpu_decode=True, decoders=decoders)
    small, images = replace(device, predict_batch=64), (photos + [f"{number}.png" for number in range(100)]) * 3
    there, here = _predict(chosen, small, artifact, images), _predict(settings, choose("cpu"), artifact, images[:300])
    assert there[:300] == there[300:600] == there[600:900]
    assert sum(a == b for a, b in zip(there, here, strict=False)) >= 0.99 * 300

    bad = _damaged(_plain(settings, photos)[0]).data
    replies: queue.SimpleQueue[jobs.Reply] = queue.SimpleQueue()
    with closing(DeviceLoop(chosen, small)) as loop:
        loop.submit(jobs.Predict("p", artifact, [*photos[:20], bad, *photos[20:40]]), replies.put)
        answer = replies.get(timeout=300)
    assert isinstance(answer, jobs.Predicted), answer
    assert list(answer.failures) == [20]
    assert answer.classes[:20] + answer.classes[21:] == here[:40]


def test_a_worker_whose_device_is_lost_is_replaced(settings: WorkerSettings, artifact: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{DEADLY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    async def run() -> None:
        # Threads: the image has to be read in the process that it is to kill.
        pool = LocalPool(msgspec.structs.replace(settings, decoders="threads"))
        await pool.start()
        try:
            good = jobs.Predict("good", artifact, ["0.png", "1.png"])
            wanted = (await pool.predict(good)).classes
            [pid] = pool.pids
            answer, guilty = await asyncio.gather(
                pool.predict(good), pool.predict(jobs.Predict("bad", artifact, ["2.png", "assert:1"])), return_exceptions=True
            )
            assert isinstance(answer, jobs.Predicted), answer
            assert answer.classes == wanted, "answered by the next worker, if it was with the first"
            assert pool.pids != [pid]
            assert isinstance(guilty, BaseException) or guilty.failures
            assert (await pool.predict(good)).classes == wanted
        finally:
            await pool.close()

    asyncio.run(run())


def test_every_architecture_agrees_with_itself_on_a_cpu(store: ArtifactStore, device: Device) -> None:
    """Sixteen bits, channels last and the rewrites for CUDA, against float32 and those for CPUs."""
    pixels = torch.randint(0, 256, (4, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    for name in registry.names():
        architecture = registry.lookup(name).load()
        torch.manual_seed(0)
        network = architecture.make(4, pretrained=False)
        preprocessing = architecture.preprocessing(input_size=96, color="RGB", pretrained=False)
        with torch.no_grad():
            network.train()(normalize(pixels, preprocessing, torch.float32))
        saved = save_model(store, network, architecture, classes=list("abcd"), preprocessing=preprocessing, metrics={}, options={})
        features = []
        for where in (device, choose("cpu")):
            one = load_model(store, saved.id, where)
            with torch.inference_mode():
                features.append(one.features(normalize(pixels.to(where.device), one.preprocessing, one.dtype)).float().cpu())
        assert difference(*features) < 0.05, name


@pytest.mark.parametrize("others", [("cuda:0", "cuda:0"), ("cuda:0", "cuda:1")], ids=["gloo, on one GPU", "NCCL"])
def test_two_ranks_learn_what_one_gpu_does(
    settings: WorkerSettings, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: tuple[str, str]
) -> None:
    if torch.cuda.device_count() < len(set(others)):
        pytest.skip("there are no two CUDA devices")
    shares, sizes = Leader.shares, list[int]()

    def wait(self: Leader, *plan: Any) -> Generator[Share, None, None]:
        while not self.all_ready():
            time.sleep(0.1)
        for share in shares(self, *plan):
            sizes.append(share.places.step)
            yield share

    monkeypatch.setattr(Leader, "shares", wait)
    one = _build(settings, device, tmp_path)
    two = _build(msgspec.structs.replace(settings, build_devices=others), device, tmp_path)
    assert set(sizes) == {2}
    for mine, theirs in zip(one.log, two.log, strict=True):
        assert theirs.loss == pytest.approx(mine.loss, rel=0.05)  # both compute in bfloat16
    images = [f"{number}.png" for number in range(300)]
    answers = [_predict(settings, device, built.artifact, images) for built in (one, two)]
    same = sum(mine == theirs for mine, theirs in zip(*answers, strict=True))
    assert same >= 0.99 * len(images)
