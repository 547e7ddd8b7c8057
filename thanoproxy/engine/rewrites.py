"""The same network with less work in it, for prediction alone: one function for each rewrite, all of them in place.

    BatchNorm into the convolution before it                everywhere
    ConvNeXt's layer scale into its second Linear           everywhere
    mean and deviation of the pixels into the first layer   on CPUs
    activations and additions into what comes before them   on CPUs, by oneDNN

Each is the same function of its input but for rounding; `tests/engine/test_rewrites.py` says how much that is.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import msgspec
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.convnext import CNBlock
from torchvision.models.mobilenetv2 import InvertedResidual

from thanoproxy.engine.device import Device
from thanoproxy.models.preprocessing import RAW, Preprocessing

__all__ = [
    "PostOp",
    "can_fuse",
    "fold_batch_norm",
    "fold_layer_scale",
    "fold_normalization",
    "fuse",
    "has_fusion",
    "replace_modules",
    "rewritten",
]

log = logging.getLogger(__name__)


def rewritten(
    network: nn.Module, preprocessing: Preprocessing, device: Device, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, Preprocessing]:
    """`network`, which is changed, on `device` in `dtype`, as fast as it gets; and how its images are to be prepared from now on."""
    network = fold_layer_scale(fold_batch_norm(network.eval())).requires_grad_(False)
    if device.device.type == "cpu":
        preprocessing = fold_normalization(network, preprocessing)
    network.to(device.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.device.type == "cpu" and dtype == torch.float32 and has_fusion():
        network = fuse(network)
    return network, preprocessing


def fold_batch_norm(network: nn.Module, fold: Callable[[nn.Conv2d, nn.BatchNorm2d], nn.Module] = fuse_conv_bn_eval) -> nn.Module:
    """`fold` each BatchNorm into the convolution before it, where a Sequential has the two side by side, as torchvision's blocks do."""
    for module in network.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for at in range(len(module) - 1):
            convolution, norm = module[at], module[at + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[at], module[at + 1] = fold(convolution, norm), nn.Identity()
    return network


@torch.no_grad()
def fold_layer_scale(network: nn.Module) -> nn.Module:
    """Multiply the second Linear of each ConvNeXt block by the block's layer scale."""
    return replace_modules(network, lambda module: _Block(module) if isinstance(module, CNBlock) else None)


@torch.no_grad()
def fold_normalization(network: nn.Module, preprocessing: Preprocessing) -> Preprocessing:
    """Have the first convolution take raw pixels (0 to 255); how images are to be prepared from now on.

    Only where it pads nothing: a zero beside the picture stands for its mean.
    """
    stem = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if stem is None or stem.in_channels != 3 or stem.padding != (0, 0) or stem.bias is None:
        return preprocessing
    mean, std = (torch.tensor(of, dtype=torch.float64).view(1, 3, 1, 1) * 255 for of in (preprocessing.mean, preprocessing.std))
    weight = stem.weight.double() / std
    bias = stem.bias.double() - (weight * mean).sum((1, 2, 3))
    stem.weight.copy_(weight)
    stem.bias.copy_(bias)
    return msgspec.structs.replace(preprocessing, mean=RAW.mean, std=RAW.std)


def fuse(network: nn.Module) -> nn.Module:
    """Have oneDNN do convolutions and ConvNeXt's Linears with weights that it has laid out beforehand, and with what follows them in the
    same pass over memory: the activation, or the addition of what went around them.

    float32 on CPUs, where `has_fusion`.  torch's own Linear is MKL's, which keeps to AVX2 on processors that are not Intel's.
    """
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            _fuse_activations(module)
    replace_modules(network, lambda module: _FusedBlock(module) if isinstance(module, _Block) else None)
    replace_modules(network, lambda module: _FusedConv(module, _NOTHING) if isinstance(module, nn.Conv2d) and can_fuse(module) else None)
    return replace_modules(network, lambda module: _FusedResidual(module) if _is_residual(module) else None)


@functools.cache
def has_fusion() -> bool:
    """Whether this build of torch can do that: its operations are torch.compile's, and promised to nobody, so they are tried."""
    plain = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU6())
    image = torch.arange(32.0).view(1, 2, 4, 4)
    try:
        with torch.inference_mode():
            return bool(torch.allclose(fuse(nn.Sequential(*plain))(image), plain(image), atol=1e-4))
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        log.warning("predicting without oneDNN's fused operations: %s", error)
        return False


PostOp = tuple[str, list[float], str]
"""What oneDNN does with each value before it is stored: its name, its numbers, and which variant of it."""

_NOTHING: PostOp = ("none", [], "")
_ACTIVATIONS: dict[type[nn.Module], PostOp] = {
    nn.ReLU: ("relu", [], ""),
    nn.ReLU6: ("hardtanh", [0.0, 6.0], ""),
    nn.SiLU: ("swish", [], ""),
    nn.Hardswish: ("hardswish", [], ""),
}


def replace_modules(network: nn.Module, rule: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """`network` with the modules that `rule` names another for replaced, outermost first."""
    for name, child in list(network.named_children()):
        other = rule(child)
        if other is None:
            replace_modules(child, rule)
        else:
            setattr(network, name, other)
    return network


def _fuse_activations(sequence: nn.Sequential) -> None:
    """[convolution, Identity …, activation] becomes [both in one, Identity …]."""
    for at, convolution in enumerate(sequence):
        if not isinstance(convolution, nn.Conv2d) or not can_fuse(convolution):
            continue
        behind = next((i for i in range(at + 1, len(sequence)) if not isinstance(sequence[i], nn.Identity)), None)
        if behind is not None and (activation := _ACTIVATIONS.get(type(sequence[behind]))) is not None:
            sequence[at], sequence[behind] = _FusedConv(convolution, activation), nn.Identity()


def can_fuse(convolution: nn.Conv2d) -> bool:
    return convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)


def _is_residual(module: nn.Module) -> bool:
    return isinstance(module, InvertedResidual) and module.use_res_connect and isinstance(module.conv[-2], _FusedConv)


class _Block(nn.Module):
    """ConvNeXt's CNBlock with the layer scale in its second Linear."""

    def __init__(self, block: CNBlock) -> None:
        super().__init__()
        self.depthwise, _, self.norm, self.expand, self.activation, self.contract, _ = block.block
        scale = block.layer_scale.flatten()
        self.contract.weight.mul_(scale[:, None])
        self.contract.bias.mul_(scale)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inside = self.norm(self.depthwise(images).permute(0, 2, 3, 1))
        inside = self.contract(self.activation(self.expand(inside)))
        added: torch.Tensor = images + inside.permute(0, 3, 1, 2)
        return added


class _FusedBlock(nn.Module):
    """`_Block` with GELU inside the first Linear and the addition inside the second."""

    def __init__(self, block: _Block) -> None:
        super().__init__()
        self.depthwise, self.norm = block.depthwise, block.norm
        self._variant = block.activation.approximate
        self._expand, self._expand_bias = _packed(block.expand)
        self._contract, self._contract_bias = _packed(block.contract)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inside = self.norm(self.depthwise(images).permute(0, 2, 3, 1))
        inside = _ops()._linear_pointwise(inside, self._expand, self._expand_bias, "gelu", [], self._variant)
        around = images.permute(0, 2, 3, 1).contiguous()  # as it is, where channels come last
        added: torch.Tensor = _ops()._linear_pointwise.binary(inside, around, self._contract, self._contract_bias, "add")
        return added.permute(0, 3, 1, 2)


class _FusedConv(nn.Module):
    """A convolution and an activation."""

    def __init__(self, convolution: nn.Conv2d, activation: PostOp) -> None:
        super().__init__()
        where = (convolution.padding, convolution.stride, convolution.dilation, convolution.groups)
        self._weight = _ops()._reorder_convolution_weight(convolution.weight, *where)
        self._bias, self._where, self._activation = convolution.bias, where, activation

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = _ops()._convolution_pointwise(images, self._weight, self._bias, *self._where, *self._activation)
        return result

    def plus(self, images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """The sum of `others` and the convolution of `images`, without the activation."""
        added: torch.Tensor
        if 1 in others.shape[1:]:  # "could not create a memory" is what torch 2.11 says of one pixel, or one channel
            added = self(images) + others
        else:
            add: tuple[object, ...] = ("add", None, None, [], None)
            added = _ops()._convolution_pointwise.binary(images, others, self._weight, self._bias, *self._where, *add)
        return added


class _FusedResidual(nn.Module):
    """MobileNet's InvertedResidual with the addition inside its last convolution."""

    def __init__(self, block: InvertedResidual) -> None:
        super().__init__()
        self.inside, self.last = block.conv[:-2], block.conv[-2]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = self.last.plus(self.inside(images), images)
        return added


def _packed(linear: nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    return _ops()._reorder_linear_weight(linear.weight), linear.bias


def _ops() -> Any:
    return torch.ops.mkldnn
