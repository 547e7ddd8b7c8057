"""UPLOAD: an artifact made of a file of the user's: one that EXPORT wrote, or weights alone with torchvision's names.

Nothing in the file is believed: tensors must be those of the architecture, name by name and shape by shape, and what a manifest says
must make sense.  What is kept is written by us.  A `.pth` is read with `weights_only=True`, which builds tensors and runs no code.
"""

from __future__ import annotations

import io
import math
import time
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import torch
from torch import nn

from thanoproxy.catalog.artifacts import ArtifactStore, Manifest
from thanoproxy.engine.exporting import ENDING, require_roots
from thanoproxy.engine.model import save_model
from thanoproxy.engine.portable import MAX_BYTES, read_manifest
from thanoproxy.errors import FileUnavailable, InvalidOption
from thanoproxy.images.beneath import NotBeneath, Roots, TooLarge
from thanoproxy.models import registry
from thanoproxy.models.architecture import Architecture
from thanoproxy.models.preprocessing import Preprocessing
from thanoproxy.models.weights import check_fit, read_weights
from thanoproxy.workers import jobs

__all__ = ["upload_model"]

MAX_CLASSES = 100_000
LARGEST_CROP = 2048


class _Described(NamedTuple):
    """What a model is besides its weights."""

    architecture: Architecture
    classes: list[str]
    preprocessing: Preprocessing
    metrics: dict[str, float | None]
    options: dict[str, object]
    temperature: float = 1.0


def upload_model(store: ArtifactStore, roots: Roots, request: jobs.Upload, go_on: Callable[[], None]) -> jobs.Built:
    """`go_on` raises once nobody wants the model any more.  Raises `FileUnavailable`, `InvalidOption` or `FeatureNotSupported`."""
    require_roots(roots, "UPLOAD MODEL")
    began = time.monotonic()
    data = _read(roots, request.file)
    manifest = read_manifest(request.file, data) if request.file.endswith(ENDING) else None
    go_on()
    found = _from_options(request) if manifest is None else _from_manifest(request, manifest)
    tensors = read_weights(request.file, data).tensors
    del data
    go_on()
    network = found.architecture.make(len(found.classes), pretrained=True)
    _put_all(network, tensors, found, request.file)
    go_on()
    options = {**found.options, "file": request.file}
    saved = save_model(
        store,
        network,
        found.architecture,
        classes=found.classes,
        preprocessing=found.preprocessing,
        metrics=found.metrics,
        options=options,
        temperature=found.temperature,
    )
    return jobs.Built(
        job=request.job,
        artifact=saved.id,
        architecture=found.architecture.name,
        classes=found.classes,
        images=_images(found.metrics),
        metrics=found.metrics,
        options=options,
        size_bytes=saved.size_bytes,
        seconds=time.monotonic() - began,
        log=[],
    )


def _read(roots: Roots, name: str) -> bytes:
    if not name.endswith((ENDING, ".pth", ".pt")):
        raise InvalidOption(f'file "{name}" is not called …{ENDING} or ….pth', hint="These are the formats that can be uploaded.")
    try:
        data = roots.read(name, MAX_BYTES)
    except NotBeneath:
        raise FileUnavailable(f'file "{name}" is not available', hint="Names are looked up below the file roots (files.roots).") from None
    except TooLarge:
        raise InvalidOption(f'file "{name}" is larger than {MAX_BYTES // 1024**3} GB') from None
    if not name.endswith(ENDING):
        _refuse_bomb(name, data)
    return data


def _refuse_bomb(name: str, data: bytes) -> None:
    """torch writes its zip archives uncompressed, and reads others, too."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return  # torch's older format, or nothing that can be read
    if unpacked > max(MAX_BYTES, len(data)):
        raise InvalidOption(f'file "{name}" is larger than {MAX_BYTES // 1024**3} GB when it is unpacked')


def _from_options(request: jobs.Upload) -> _Described:
    missing = [name for name in ("architecture", "classes") if getattr(request, name) is None]
    if missing:
        raise InvalidOption(
            f'file "{request.file}" holds weights alone: UPLOAD MODEL needs OPTIONS ({missing[0]}=…)',
            hint="OPTIONS (architecture='MobileNet_V2', classes=['cat', 'dog']); the classes in the order of the last layer's outputs.",
        )
    assert request.architecture is not None, "given"
    assert request.classes is not None, "given"
    architecture = registry.lookup(request.architecture).load()
    preprocessing = architecture.preprocessing(input_size=request.input_size, color="RGB", pretrained=True)
    _check(architecture, request.classes, preprocessing, request.file)
    return _Described(architecture, request.classes, preprocessing, {}, {"input_size": preprocessing.crop, "color": "RGB"})


def _from_manifest(request: jobs.Upload, manifest: Manifest) -> _Described:
    given = next((name for name in ("architecture", "classes", "input_size") if getattr(request, name) is not None), None)
    if given is not None:
        raise InvalidOption(f'option "{given}" is for files with weights alone, and "{request.file}" says it itself')
    try:
        preprocessing = msgspec.convert(manifest.preprocessing, Preprocessing)
    except msgspec.ValidationError as error:
        raise InvalidOption(f'model file "{request.file}" has no usable preprocessing', detail=str(error)) from error
    architecture = registry.lookup(manifest.architecture).load()
    _check(architecture, manifest.classes, preprocessing, request.file)
    if not (math.isfinite(manifest.temperature) and manifest.temperature > 0):
        raise InvalidOption(f'file "{request.file}" cannot be uploaded: its temperature is no number above 0')
    return _Described(architecture, manifest.classes, preprocessing, manifest.metrics, manifest.options, manifest.temperature)


def _check(architecture: Architecture, classes: list[str], preprocessing: Preprocessing, name: str) -> None:
    problem = None
    if not 2 <= len(classes) <= MAX_CLASSES:
        problem = f"it should have 2 to {MAX_CLASSES:,} classes, not {len(classes)}"
    elif len(set(classes)) != len(classes) or any("\0" in one for one in classes):
        problem = "a class has a name twice, or one that is no text"
    elif not architecture.smallest <= preprocessing.crop <= min(preprocessing.resize, LARGEST_CROP):
        problem = f"images of {preprocessing.crop} pixels, cut from {preprocessing.resize}, are not what {architecture.name} takes"
    elif preprocessing.resize > 2 * LARGEST_CROP:
        problem = f"images should not be scaled to more than {2 * LARGEST_CROP} pixels"
    elif not all(map(math.isfinite, (*preprocessing.mean, *preprocessing.std))) or min(preprocessing.std) <= 0:
        problem = "mean and deviation of the channels are no such numbers"
    if problem is not None:
        raise InvalidOption(f'file "{name}" cannot be uploaded: {problem}')


def _put_all(network: nn.Module, tensors: Mapping[str, torch.Tensor], found: _Described, name: str) -> None:
    """Copy every tensor into `network`.  Raises `InvalidOption` with the first differences."""
    head = tensors.get(f"{found.architecture.head_name}.weight")
    if head is not None and head.ndim == 2 and head.shape[0] != len(found.classes):
        raise InvalidOption(f'the model in "{name}" tells {head.shape[0]} classes apart, and {len(found.classes)} are named')
    check_fit(found.architecture, f'file "{name}"', network.state_dict(), tensors, ", its last layer included")
    unusable = next((key for key, tensor in tensors.items() if not _usable(tensor)), None)
    if unusable is not None:
        raise InvalidOption(f'file "{name}" cannot be uploaded: {unusable} holds what is no finite number')
    network.load_state_dict(dict(tensors), strict=False)


def _usable(tensor: torch.Tensor) -> bool:
    return not tensor.is_complex() and bool(torch.isfinite(tensor).all())


def _images(metrics: Mapping[str, Any]) -> int:
    """How many images it was made from, as far as is known."""
    return int(sum(metrics.get(name) or 0 for name in ("training_images", "validation_images")))
