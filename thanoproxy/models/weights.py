"""Finding an architecture's pretrained weights, and refusing to go on without them.

Looked for in this order, and nowhere else:

1. the file that OPTIONS (weights='…') names, below the weights roots;
2. the weights roots, under the architecture's usual file names;
3. torch's own cache, $TORCH_HOME/hub/checkpoints;
4. the network, if the operator allows it (never by default).

A `.safetensors` file is only data; a `.pth` file is read with `weights_only=True`, which builds tensors and runs no code.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import load as load_safetensors
from torch import nn

from thanoproxy.errors import FileUnavailable, InvalidOption
from thanoproxy.images.beneath import NotBeneath, Roots, TooLarge
from thanoproxy.models.architecture import Architecture

__all__ = ["Weights", "WeightsFinder", "check_fit", "put_into", "read_weights"]

MAX_BYTES = 4 * 1024**3


@dataclass(frozen=True)
class Weights:
    """A state dict on the CPU, and where it came from."""

    name: str
    tensors: dict[str, torch.Tensor]


class WeightsFinder:
    """The places that an operator lets weights come from."""

    def __init__(self, weights_roots: Sequence[str], *, allow_download: bool = False) -> None:
        self._roots = Roots(weights_roots)
        self._allow_download = allow_download

    def find(self, architecture: Architecture, name: str | None) -> Weights:
        """The weights called `name`, or the architecture's usual ones.

        Raises `FileUnavailable` if there are none, with a hint that names each way to supply them, and `InvalidOption` for a
        file that holds no weights.
        """
        if name is not None:
            return self._named(architecture, name)
        for roots in (self._roots, Roots([_torch_cache()])):
            for usual in architecture.weight_files:
                if (data := _read(roots, usual)) is not None:
                    return read_weights(usual, data)
        if self._allow_download:
            return _download(architecture)
        raise FileUnavailable(f"no pretrained weights for {architecture.name} were found", hint=_ways(architecture))

    def _named(self, architecture: Architecture, name: str) -> Weights:
        data = _read(self._roots, name)
        if data is None:
            raise FileUnavailable(f'weights file "{name}" is not available', hint=_ways(architecture))
        return read_weights(name, data)


def _read(roots: Roots, name: str) -> bytes | None:
    try:
        return roots.read(name, MAX_BYTES)
    except NotBeneath:
        return None
    except TooLarge:
        raise InvalidOption(f'weights file "{name}" is larger than {MAX_BYTES // 1024**3} GB') from None


def read_weights(name: str, data: bytes) -> Weights:
    """A state dict from the bytes of a `.safetensors` or `.pth` file.  Raises `InvalidOption`."""
    try:
        tensors = load_safetensors(data) if name.endswith(".safetensors") else torch.load(io.BytesIO(data), "cpu", weights_only=True)
    except Exception as error:  # a stranger's bytes: the readers raise whatever they trip over
        raise InvalidOption(
            f'weights file "{name}" cannot be read',
            detail=str(error).splitlines()[0] if str(error) else type(error).__name__,
            hint="Accepted are .safetensors files, and .pth files that hold nothing but tensors.",
        ) from error
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise InvalidOption(f'weights file "{name}" holds no state dict', hint="Save module.state_dict(), not the module.")
    return Weights(name, dict(tensors))


def put_into(network: nn.Module, weights: Weights, architecture: Architecture) -> None:
    """Copy everything but the head into `network`.

    Raises `InvalidOption` naming the first differences if these are not the architecture's weights.  Batch norm's step
    counters, which have no effect on prediction, may be missing.
    """
    head = architecture.head_name + "."
    given = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith(head)}
    wanted = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(head)}
    check_fit(architecture, f'weights file "{weights.name}"', wanted, given)
    network.load_state_dict(given, strict=False)


def check_fit(
    architecture: Architecture, what: str, wanted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], besides: str = ""
) -> None:
    """Raise `InvalidOption` naming the first differences; `besides` ends the hint, which says what the file must hold."""
    problems = _differences(wanted, given)
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InvalidOption(
            f"{what} does not fit {architecture.name}",
            detail="; ".join(problems[:3]) + more + ".",
            hint=f"It must hold a state dict with torchvision's names for {architecture.name}{besides}.",
        )


def _differences(wanted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> list[str]:
    """In what the tensors `given` are not those `wanted`, by name and shape.  Batch norm's step counters may be missing."""
    problems = [f"{name} is missing" for name in wanted if name not in given and not name.endswith(".num_batches_tracked")]
    problems += [f"{name} is unknown" for name in given if name not in wanted]
    problems += [
        f"{name} has shape {tuple(given[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    return problems


def _ways(architecture: Architecture) -> str:
    usual = architecture.weight_files[0]
    return (
        f"Either: OPTIONS (weights='file.safetensors') with a file below a weights root (--weights-root DIR); "
        f"or put {usual} into a weights root; "
        f"or into torch's cache ($TORCH_HOME/hub/checkpoints); "
        f"or allow the download in the settings (THANOPROXY_WEIGHTS__DOWNLOAD=true); "
        f"or train from scratch with OPTIONS (pretrained=false)."
    )


def _torch_cache() -> str:
    return os.path.join(torch.hub.get_dir(), "checkpoints")


def _download(architecture: Architecture) -> Weights:
    name = architecture.url.rpartition("/")[2]
    digest = name.partition(".")[0].rpartition("-")[2]
    path = os.path.join(_torch_cache(), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        torch.hub.download_url_to_file(architecture.url, path, hash_prefix=digest, progress=False)
    except (OSError, RuntimeError) as error:
        raise FileUnavailable(
            f"the weights for {architecture.name} could not be downloaded", detail=str(error), hint=_ways(architecture)
        ) from error
    with open(path, "rb") as file:
        return read_weights(name, file.read())
