"""The engine on a GPU, without PostgreSQL or a proxy: what is needed is torch, torchvision, Pillow, NumPy, safetensors and msgspec.

    python -m tests.bench.gpu [--device cuda:0] [--architecture ConvNeXt_Tiny] [--parts forward,decode,…] [--images N] …

forward   images per second of the network alone, pixels on the device: as torchvision makes it, rewritten, compiled
decode    JPEG files to pixels alone, in threads and in processes
predict   JPEG files through a whole worker (`DeviceLoop`), asked as a front asks; how much of the time the device was busy
gpu_decode
          the same where the device decodes them itself (`workers.gpu_decode`), that alone, and how its pixels differ from the CPU's
train     images per second of a full fine-tune
agree     the share of photos that CPU and device give the same class

Photos are those of $THANOPROXY_TEST_DATA or ../shared, else painted.  Weights that are not there are random.  With `--device cpu` all of it
runs, slowly, with small numbers.  The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from thanoproxy.catalog.artifacts import ArtifactStore, open_store
from thanoproxy.engine.build import Workshop, build
from thanoproxy.engine.compiling import Compiler
from thanoproxy.engine.device import Device, choose, cores
from thanoproxy.engine.device_decoding import open_decoder
from thanoproxy.engine.model import Model, load_model
from thanoproxy.engine.pixels import decode_scaled, read_cropped
from thanoproxy.engine.staging import open_staging
from thanoproxy.images import decode, open_sources
from thanoproxy.images.jpeg import plain_jpeg
from thanoproxy.images.loader import finish, ordered
from thanoproxy.models import registry
from thanoproxy.models.preprocessing import Preprocessing, center_crop, normalize
from thanoproxy.models.weights import WeightsFinder
from thanoproxy.workers import decoding, jobs
from thanoproxy.workers.device_loop import DeviceLoop
from thanoproxy.workers.memory import keep_freed_memory
from thanoproxy.workers.settings import WorkerSettings
from thanoproxy.workers.spool import SpoolWriter

IN_FLIGHT, REQUEST = 4, 64
"""Batches of the device's, and rows in a request: what `thanoproxy.session.decorate` keeps at a worker."""

PAINTED = 200
Rows = list[tuple[str, str]]


@dataclass(frozen=True)
class Bench:
    """What is measured, and on what."""

    device: Device
    architecture: str
    photos: Path
    rows: Rows
    settings: WorkerSettings
    folder: Path
    seconds: float

    @property
    def store(self) -> ArtifactStore:
        return open_store(self.settings.artifacts_url)

    @property
    def preprocessing(self) -> Preprocessing:
        return registry.lookup(self.architecture).load().preprocessing(input_size=None, color="RGB", pretrained=True)

    def some(self, count: int) -> Rows:
        """So many of the photos, from the first again where there are too few."""
        return list(itertools.islice(itertools.cycle(self.rows), count))


def main() -> None:
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="thanoproxy-gpu-") as folder:
        bench = _prepare(arguments, Path(folder))
        figures: dict[str, object] = {"bench": "gpu", **_machine(bench)}
        print(", ".join(f"{name} {value}" for name, value in figures.items()))
        artifact = _head_only(bench)
        parts: dict[str, Callable[[], dict[str, object]]] = {
            "forward": lambda: forward(bench, artifact, arguments.mode),
            "decode": lambda: decode_alone(bench, arguments.images),
            "predict": lambda: predict(bench, artifact, arguments.images),
            "gpu_decode": lambda: gpu_decode(bench, artifact, arguments.images, arguments.agree_images),
            "train": lambda: train(bench, arguments.train_images, arguments.epochs),
            "agree": lambda: agree(bench, artifact, arguments.agree_images),
        }
        for part in arguments.parts.split(","):
            found = parts[part]()
            for name, value in found.items():
                print(f"  {part:8} {name:32} {value}", flush=True)
            figures |= found
    print(json.dumps(figures))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench.gpu")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--architecture", default="ConvNeXt_Tiny")
    parser.add_argument("--parts", default="forward,decode,predict,gpu_decode,train,agree")
    parser.add_argument("--images", type=int, help="rows of the PREDICT (50,000; on a CPU 64)")
    parser.add_argument("--train-images", type=int, help="rows of the fine-tune (10,000; on a CPU 48)")
    parser.add_argument("--agree-images", type=int, help="photos that both predict (1,000; on a CPU 24)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seconds", type=float, help="for each forward figure (5; on a CPU 1)")
    parser.add_argument("--decoders", choices=("auto", "threads", "processes"), default="auto")
    parser.add_argument("--loader-threads", type=int)
    parser.add_argument("--compile", choices=("auto", "off"), default="auto")
    parser.add_argument("--mode", help="torch.compile's, for the forward figure: max-autotune-no-cudagraphs, for one")
    arguments = parser.parse_args()
    small = arguments.device == "cpu"
    for name, few, many in (("images", 64, 50_000), ("train_images", 48, 10_000), ("agree_images", 24, 1000), ("seconds", 1.0, 5.0)):
        if getattr(arguments, name) is None:
            setattr(arguments, name, few if small else many)
    return arguments


def _prepare(arguments: argparse.Namespace, folder: Path) -> Bench:
    device = choose(arguments.device)
    device.enter()
    device.use_threads()
    photos, rows = _find_photos() or _paint(folder / "photos")
    architecture = registry.lookup(arguments.architecture).load()
    roots = [folder / "weights", *(root / "weights" for root in _shared())]
    roots[0].mkdir()
    if not any((root / name).exists() for root in roots for name in architecture.weight_files):
        torch.manual_seed(0)
        network = architecture.make(1000, pretrained=False)
        save_file(network.state_dict(), roots[0] / architecture.weight_files[-1])
        print(f"no published weights of {architecture.name} here: random ones")
    settings = WorkerSettings(
        artifacts_url=(folder / "models").as_uri(),
        image_roots=(str(photos),),
        weights_roots=tuple(map(str, roots)),
        devices=(arguments.device,),
        decoders=arguments.decoders,
        loader_threads=arguments.loader_threads,
        compile=arguments.compile,
        pixel_cache=8 << 30,
    )
    return Bench(device, architecture.name, photos, rows, settings, folder, arguments.seconds)


def _shared() -> list[Path]:
    named = os.environ.get("THANOPROXY_TEST_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared"
    return [folder] if folder.is_dir() else []


def _find_photos() -> tuple[Path, Rows] | None:
    for shared in _shared():
        root = shared / "data" / "cat_and_dog"
        if files := sorted(root.rglob("*.jpg")):
            random.Random(0).shuffle(files)  # they lie in order of their labels
            return root, [(str(path.relative_to(root)), "cat" if "cat" in path.name else "dog") for path in files]
    return None


def _paint(root: Path) -> tuple[Path, Rows]:
    """Pictures of 500x375 pixels that cost a JPEG decoder as much as a photo, in two colours."""
    root.mkdir(parents=True)
    rows = []
    for number in range(PAINTED):
        draw = np.random.default_rng(number)
        coarse = draw.normal(128, 50, (25, 33, 3)) + ((40, 0, -40), (-40, 0, 40))[number % 2]
        smooth = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
        grainy = np.asarray(smooth) + draw.normal(0, 12, (375, 500, 3))
        name = f"{number}.jpg"
        Image.fromarray(np.clip(grainy, 0, 255).astype(np.uint8)).save(root / name, quality=90)
        rows.append((name, ("warm", "cold")[number % 2]))
    print(f"no photos here: {PAINTED} painted ones")
    return root, rows


def _machine(bench: Bench) -> dict[str, object]:
    return {
        "device": torch.cuda.get_device_name(bench.device.device) if bench.device.is_cuda else "CPU",
        "cores": cores(),
        "python": sys.version.split()[0],
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "jpeg": decode.jpeg_decoder_name,
        "architecture": bench.architecture,
        "photos": len(bench.rows),
    }


def _build(bench: Bench, rows: Rows, **options: object) -> tuple[jobs.Built, list[jobs.Progress]]:
    threads = decoding.loaders_for(bench.settings, bench.device, lambda: torch.set_num_threads(1))
    settings = bench.settings
    workshop = Workshop(
        bench.device, bench.store, open_sources(settings.image_roots), threads, WeightsFinder(settings.weights_roots), settings.pixel_cache
    )
    reports = []
    with SpoolWriter(str(bench.folder)) as spool:
        for row in rows:
            spool.add(*row)
        spool.finish()
        chosen = jobs.TrainOptions(**options)  # type: ignore[arg-type]
        steps = build(jobs.Build("build", bench.architecture, spool.path, chosen), workshop)
        try:
            while True:
                step = next(steps)
                if isinstance(step, jobs.Progress):
                    reports.append(step)
        except StopIteration as end:
            built: jobs.Built = end.value
        finally:
            threads.close()
    return built, reports


def _head_only(bench: Bench) -> str:
    """A model that has learnt something, so that its classes are no toss-up."""
    count = min(len(bench.rows), 400 if bench.device.is_cuda else 40)
    built, _ = _build(bench, bench.some(count), tune="head", epochs=1)
    print(f"head alone on {count} photos: {built.metrics}")
    return built.artifact


def forward(bench: Bench, artifact: str, mode: str | None) -> dict[str, object]:
    model = load_model(bench.store, artifact, bench.device)
    crop = model.preprocessing.crop
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (bench.device.predict_batch, 3, crop, crop), dtype=torch.uint8, generator=draw).to(bench.device.device)
    plain = _as_torchvision_makes_it(bench, artifact, model)
    found: dict[str, object] = {"batch": len(pixels)}
    with torch.inference_mode():
        for name, one in (("eager", plain), ("rewritten", model)):
            found[f"forward_{name}_images_per_s"] = _rate(bench, one, pixels, lambda one=one: _features(one, pixels))  # type: ignore[misc]
        if bench.settings.compile == "off" or not bench.device.is_cuda:
            return found
        started = time.monotonic()
        with closing(Compiler(bench.device, mode=mode)) as compiler:
            while compiler.features(model, pixels) is None:
                if (waiting := [one for one in compiler._networks.values() if one.failed]) or time.monotonic() - started > 400:
                    print(f"not compiled: {waiting}")
                    return found
                time.sleep(0.2)
            found["compile_s"] = round(time.monotonic() - started, 1)
            while not all(one.complete for one in compiler._networks.values()) and time.monotonic() - started < 400:
                time.sleep(0.2)
            found["compile_all_s"] = round(time.monotonic() - started, 1)
            found["forward_compiled_images_per_s"] = _rate(bench, model, pixels, lambda: compiler.features(model, pixels))
    return found


def _as_torchvision_makes_it(bench: Bench, artifact: str, model: Model) -> Model:
    manifest = bench.store.manifest(artifact)
    network: nn.Module = model.architecture.make(len(manifest.classes), pretrained=True)
    network.eval().to(bench.device.device, model.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    head = model.architecture.head(network)
    return Model(network, head, "plain", model.architecture, model.classes, model.preprocessing, bench.device, 0, 1.0, model.dtype)


def _features(model: Model, pixels: torch.Tensor) -> torch.Tensor:
    return model.features(normalize(pixels, model.preprocessing, model.dtype))


def _rate(bench: Bench, model: Model, pixels: torch.Tensor, work: Callable[[], object]) -> float:
    for _ in range(3):
        work()
    bench.device.synchronize()
    started, batches = time.perf_counter(), 0
    while (taken := time.perf_counter() - started) < bench.seconds or batches < 2:
        work()
        batches += 1
        if batches % 8 == 0 or not bench.device.is_cuda:
            bench.device.synchronize()  # or the loop would tell it more than it does in the time
    bench.device.synchronize()
    taken = time.perf_counter() - started
    return round(batches * len(pixels) / taken, 1)


def decode_alone(bench: Bench, images: int) -> dict[str, object]:
    """As many at once as a worker decodes ahead."""
    sources, found = open_sources(bench.settings.image_roots), dict[str, object]()
    preprocessing = bench.preprocessing
    rows = [image for image, _ in bench.some(min(images, 20_000))]
    for kind in ("threads", "processes"):
        threads = decoding.loaders_for(
            msgspec.structs.replace(bench.settings, decoders=kind), bench.device, lambda: torch.set_num_threads(1)
        )

        def read(image: str) -> torch.Tensor:
            return finish(read_cropped(sources, image, 0, preprocessing))

        try:
            for rows_now in (rows[: len(rows) // 4], rows):
                started = time.perf_counter()
                for future in ordered(threads, rows_now, read, ahead=4 * bench.device.predict_batch):
                    future.result()
                seconds = time.perf_counter() - started
        finally:
            threads.close()
        found[f"decode_{kind}_images_per_s"] = round(len(rows) / seconds, 1)
    return found


def predict(bench: Bench, artifact: str, images: int) -> dict[str, object]:
    rows = [image for image, _ in bench.some(images)]
    with _counted_busy() as busy, closing(DeviceLoop(bench.settings, bench.device)) as loop:
        _ask(loop, artifact, rows[: max(REQUEST, images // 50)])  # model, decode processes, allocators
        _until_compiled(loop, artifact, rows)
        busy.reset()
        with _utilization(bench.device) as samples:
            started = time.perf_counter()
            answers = _ask(loop, artifact, rows)
            seconds = time.perf_counter() - started
        share = busy.seconds(seconds)
        compiled = loop._compiler is not None and any(one.complete for one in loop._compiler._networks.values())
    failures = sum(len(answer.failures) for answer in answers)
    assert sum(len(answer.classes) for answer in answers) == images
    return {
        "predict_images": images,
        "predict_failures": failures,
        "predict_compiled": compiled,
        "predict_images_per_s": round(images / seconds, 1),
        "busy_by_events": share,
        "busy_by_nvidia_smi": round(sum(samples) / len(samples) / 100, 3) if samples else None,
        "mean_batch": busy.mean_batch,
    }


def gpu_decode(bench: Bench, artifact: str, images: int, compared: int) -> dict[str, object]:
    """The predictions of photos whose pixels differ are compared as in `agree`, all on this device."""
    decoder = open_decoder(bench.device)
    if decoder is None:
        print("the device decodes nothing: the log says why")
        return {}
    there = replace(bench, settings=msgspec.structs.replace(bench.settings, gpu_decode=True))
    found = {f"predict_gpu_decode_{name.removeprefix('predict_')}": value for name, value in predict(there, artifact, images).items()}

    sources, preprocessing = open_sources(bench.settings.image_roots), bench.preprocessing
    read = [plain_jpeg(sources.read(image)) for image, _ in bench.some(min(images, 4096))]
    jpegs = [jpeg for jpeg in read if jpeg is not None]
    size = bench.device.predict_batch
    decoder.decode(jpegs[:size], preprocessing)
    started = time.perf_counter()
    for at in range(0, len(jpegs), size):
        decoder.decode(jpegs[at : at + size], preprocessing)
    seconds = time.perf_counter() - started

    differences = [
        (pixels.cpu().int() - center_crop(decode_scaled(jpeg.data, preprocessing), preprocessing).int()).abs()
        for jpeg, pixels in zip(jpegs[:64], decoder.decode(jpegs[:64], preprocessing), strict=True)
        if pixels is not None
    ]
    rows = [image for image, _ in bench.some(min(compared, len(bench.rows)))]
    classes = []
    for one in (bench, there):
        with closing(DeviceLoop(one.settings, one.device)) as loop:
            _until_compiled(loop, artifact, rows)
            classes.append(_in_order(loop, artifact, rows))
    return found | {
        "gpu_decode_share_of_files": round(len(jpegs) / len(read), 4),
        "decode_gpu_images_per_s": round(len(jpegs) / seconds, 1),
        "gpu_decode_failed_in_64": min(64, len(jpegs)) - len(differences),
        "gpu_decode_pixels_differ_by": round(float(torch.stack(differences).float().mean()), 3) if differences else None,
        "gpu_decode_pixels_differ_most_by": max(int(one.max()) for one in differences) if differences else None,
        "gpu_decode_agree": round(sum(a == b for a, b in zip(*classes, strict=True)) / len(rows), 4),
    }


def _ask(loop: DeviceLoop, artifact: str, rows: Sequence[str]) -> list[jobs.Predicted]:
    """As a front does for one statement: so many rows under way, and the next request when one is answered."""
    replies: queue.SimpleQueue[jobs.Reply] = queue.SimpleQueue()
    requests = iter([rows[at : at + REQUEST] for at in range(0, len(rows), REQUEST)])
    numbers, answers = itertools.count(), list[jobs.Predicted]()

    def send(some: Sequence[str]) -> None:
        loop.submit(jobs.Predict(f"p{next(numbers)}", artifact, list(some)), replies.put)

    waiting = 0
    for some in itertools.islice(requests, max(IN_FLIGHT, IN_FLIGHT * loop.device.predict_batch // REQUEST)):
        send(some)
        waiting += 1
    while waiting:
        answer = replies.get()
        assert isinstance(answer, jobs.Predicted), answer
        answers.append(answer)
        some = next(requests, None)
        if some is None:
            waiting -= 1
        else:
            send(some)
    return answers


def _until_compiled(loop: DeviceLoop, artifact: str, rows: Sequence[str]) -> None:
    """So that what is asked then is what a worker answers for the rest of its life; and nothing goes on behind the next measurement."""
    if loop._compiler is None:
        return
    started = time.monotonic()
    while time.monotonic() - started < 400:
        _ask(loop, artifact, rows[: 4 * loop.device.predict_batch])
        if all(one.complete or one.failed for one in loop._compiler._networks.values()):
            break


class _Busy:
    """How long the device computed, by events around each batch, from where its pixels had come to its results."""

    def __init__(self) -> None:
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._batches: list[int] = []

    def reset(self) -> None:
        self._spans.clear()
        self._batches.clear()

    def seconds(self, wall: float) -> float | None:
        if not self._spans:
            return None
        return round(sum(start.elapsed_time(end) for start, end in self._spans) / 1e3 / wall, 3)

    @property
    def mean_batch(self) -> float:
        return round(sum(self._batches) / max(1, len(self._batches)), 1)


@contextmanager
def _counted_busy() -> Iterator[_Busy]:
    from thanoproxy.engine import inference

    busy = _Busy()

    def opened(device: Device) -> object:
        staging = open_staging(device)
        inner = staging.on_device

        @contextmanager
        def on_device(images: Sequence[torch.Tensor]) -> Generator[torch.Tensor, None, None]:
            busy._batches.append(len(images))
            with inner(images) as pixels:
                if not device.is_cuda:
                    yield pixels
                    return
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
                start.record(torch.cuda.current_stream(device.device))
                yield pixels
                end.record(torch.cuda.current_stream(device.device))
                busy._spans.append((start, end))

        staging.on_device = on_device  # type: ignore[method-assign]
        return staging

    inference.open_staging = opened  # type: ignore[assignment]
    try:
        yield busy
    finally:
        inference.open_staging = open_staging


@contextmanager
def _utilization(device: Device) -> Iterator[list[float]]:
    """The driver's own samples while the block runs, in percent of the time that any kernel ran."""
    samples: list[float] = []
    command = shutil.which("nvidia-smi")
    if not device.is_cuda or command is None:
        yield samples
        return
    # CUDA_VISIBLE_DEVICES counts anew; the driver does not.
    which = f"GPU-{torch.cuda.get_device_properties(device.device).uuid}"
    query = [command, f"--id={which}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    with subprocess.Popen(query, stdout=subprocess.PIPE, text=True) as process:

        def read() -> None:
            assert process.stdout is not None, "a pipe"
            samples.extend(float(line) for line in process.stdout if line.strip().isdigit())

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield samples
        finally:
            process.terminate()
            reader.join()


def train(bench: Bench, images: int, epochs: int) -> dict[str, object]:
    built, reports = _build(bench, bench.some(images), tune="full", epochs=epochs, validation_split=0.02, input_size=None)
    training = [report for report in reports if report.phase == "training" and report.images_done]
    # Of the last epoch: by then pixels are cached, kernels chosen and memory taken.
    ends = [report for report in reports if report.epoch is not None]
    seconds = [report.epoch.seconds for report in ends if report.epoch is not None]
    rows = training[-1].images_total / epochs if training else 0.0
    return {
        "train_images": images,
        "train_images_per_s": round(rows / min(seconds), 1),
        "train_epoch_s": [round(one, 2) for one in seconds],
        "train_loss": [round(one.loss, 3) for one in built.log],
    }


def agree(bench: Bench, artifact: str, images: int) -> dict[str, object]:
    rows = [image for image, _ in bench.some(min(images, len(bench.rows)))]

    def classes(device: Device) -> list[tuple[int, ...] | None]:
        with closing(DeviceLoop(bench.settings, device)) as loop:
            _until_compiled(loop, artifact, rows)
            return _in_order(loop, artifact, rows)

    here, there = classes(choose("cpu")), classes(bench.device)
    same = sum(a == b for a, b in zip(here, there, strict=True))
    return {"agree_images": len(rows), "agree_with_cpu": round(same / len(rows), 4)}


def _in_order(loop: DeviceLoop, artifact: str, rows: list[str]) -> list[tuple[int, ...] | None]:
    answers = sorted(_ask(loop, artifact, rows), key=lambda answer: int(answer.job[1:]))
    return [one for answer in answers for one in answer.classes]


if __name__ == "__main__":
    main()
