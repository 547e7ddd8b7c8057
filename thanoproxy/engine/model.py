"""A model ready to predict, and its two crossings: into an artifact and out of one."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from thanoproxy.catalog.artifacts import ArtifactStore, Manifest, Saved
from thanoproxy.engine.device import Device
from thanoproxy.engine.rewrites import rewritten
from thanoproxy.errors import ArtifactCorrupt, ThanoError
from thanoproxy.models import registry
from thanoproxy.models.architecture import Architecture
from thanoproxy.models.preprocessing import Preprocessing

__all__ = ["Model", "load_model", "read_preprocessing", "save_model"]


@dataclass(frozen=True)
class Model:
    """A network in evaluation mode on its device, rewritten to be fast there, with what its manifest says of it.

    Models whose `backbone` is the same make the same features of the same pixels: `network` may be that of another one of them, so the
    head that counts is `head`.
    """

    network: nn.Module
    head: nn.Linear
    backbone: str
    architecture: Architecture
    classes: list[str]
    preprocessing: Preprocessing
    device: Device
    size_bytes: int
    temperature: float = 1.0
    dtype: torch.dtype = torch.float32
    """What the network computes in; the head always does in float32, where classes that are nearly alike are told apart."""

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What the last layer sees of (n, 3, h, w) images: (n, features)."""
        return self.architecture.features(self.network, images)

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """What the last layer makes of them, calibrated: float32 (n, classes), not yet probabilities."""
        scores: torch.Tensor = self.head(features.float())
        return scores / self.temperature

    @property
    def head_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.head.parameters())


def save_model(
    store: ArtifactStore,
    network: nn.Module,
    architecture: Architecture,
    *,
    classes: list[str],
    preprocessing: Preprocessing,
    metrics: dict[str, float | None],
    options: dict[str, object],
    temperature: float = 1.0,
) -> Saved:
    """Write a trained network as an artifact: fp32, with torchvision's names."""
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in network.state_dict().items()}
    return store.save(
        save_safetensors(tensors),
        architecture=architecture.name,
        classes=classes,
        preprocessing=msgspec.to_builtins(preprocessing),
        metrics=metrics,
        options=options,
        software={"torch": str(torch.__version__), "torchvision": str(torchvision.__version__)},
        temperature=temperature,
    )


def read_preprocessing(identity: str, manifest: Manifest) -> Preprocessing:
    """How this artifact's images are prepared.  Raises `ArtifactCorrupt`."""
    try:
        return msgspec.convert(manifest.preprocessing, Preprocessing)
    except msgspec.ValidationError as error:
        raise ArtifactCorrupt(f"model artifact {identity[:12]}… has no usable preprocessing", detail=str(error)) from error


def load_model(store: ArtifactStore, identity: str, device: Device) -> Model:
    """Read, verify and place artifact `identity` on `device`.  Raises `ArtifactCorrupt`."""
    manifest = store.manifest(identity)
    preprocessing = read_preprocessing(identity, manifest)
    data = store.weights(identity, manifest)
    try:
        architecture = registry.lookup(manifest.architecture).load()
        with torch.device("meta"):  # without weights: drawing random ones takes time, and numbers that a training beside it counts on
            network = architecture.make(len(manifest.classes), pretrained=True)
        tensors = load_safetensors(data)
        network.load_state_dict(tensors, assign=True)
    except (SafetensorError, RuntimeError, ThanoError) as error:
        # Its hash is right, so it was written so: by another version of this program, or of torchvision.
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactCorrupt(f"model artifact {identity[:12]}… does not fit {manifest.architecture}", detail=why) from error
    backbone = identify_backbone(architecture, preprocessing, tensors)
    dtype = device.number_format(architecture.half)
    head = architecture.head(network)
    if dtype != torch.float32:
        head = copy.deepcopy(head).requires_grad_(False).to(device.device)  # of the network's own nothing but rounding would be left
    network, preprocessing = rewritten(network, preprocessing, device, dtype)
    device.settle()
    return Model(network, head, backbone, architecture, manifest.classes, preprocessing, device, len(data), manifest.temperature, dtype)


def identify_backbone(architecture: Architecture, preprocessing: Preprocessing, tensors: Mapping[str, torch.Tensor]) -> str:
    """The same for two models if and only if they make the same features of the same images: all but the head counts, bit for bit."""
    digest = hashlib.sha256(msgspec.json.encode([architecture.name, preprocessing]))
    for name, tensor in sorted(tensors.items()):
        if not name.startswith(architecture.head_name + "."):
            digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
