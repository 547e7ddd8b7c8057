"""The same network with less work in it, for training on CPUs: one function for each rewrite.

    batch norm that keeps its statistics    into the convolution before it
    an activation behind that               into the same, by oneDNN
    ConvNeXt's layer scale                  into its second Linear
    ConvNeXt's Linears                      as convolutions of one pixel, which are oneDNN's (`rewrites.fuse` has the reason)
    the gradient of a bias                  as a sum

What is rewritten shares its parameters and statistics with the original, which is what learns: the optimizer, a checkpoint and the state
dict know nothing of this.  What goes into a weight is computed from the parameters at every step, and gradients go back the same way.  So
each is the same function, with the same derivative, but for rounding: `tests/engine/test_lighter.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torchvision.models.convnext import CNBlock

from thanoproxy.engine.rewrites import PostOp, can_fuse, fold_batch_norm, has_fusion, replace_modules

__all__ = ["fold_kept_batch_norm", "fuse_activations", "lighter", "rewrite_blocks"]


def lighter(network: nn.Module, *, keeps_statistics: bool) -> nn.Module:
    """Another network with the parameters of `network`, which stays as it is.

    `keeps_statistics` says that batch norm is not to learn any: it then is as in evaluation mode, whatever the mode.
    """
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    other = rewrite_blocks(copy.deepcopy(network, shared))
    if not keeps_statistics:
        return other
    other = fold_kept_batch_norm(other)
    fusible = has_fusion() and all(parameter.dtype == torch.float32 for parameter in other.parameters())
    return fuse_activations(other) if fusible else other


def rewrite_blocks(network: nn.Module) -> nn.Module:
    """ConvNeXt's blocks without a pass for the layer scale, and without MKL."""
    return replace_modules(network, lambda module: _Block(module) if isinstance(module, CNBlock) else None)


def fold_kept_batch_norm(network: nn.Module) -> nn.Module:
    """`rewrites.fold_batch_norm` where the weights of both still learn."""
    return fold_batch_norm(network, _NormedConv)


def fuse_activations(network: nn.Module) -> nn.Module:
    """Have oneDNN apply activations while it computes convolutions with batch norm in them.  float32 where `rewrites.has_fusion`."""
    for module in network.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for at in range(len(module) - 2):
            convolution, activation = module[at], _ACTIVATIONS.get(type(module[at + 2]))
            if isinstance(convolution, _NormedConv) and activation is not None and can_fuse(convolution.convolution):
                convolution.activation, module[at + 2] = activation, nn.Identity()
    return network


class _NormedConv(nn.Module):
    """A convolution and the batch norm behind it, which is one of another weight and bias."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.convolution, self.norm = convolution, norm
        self.activation: _Activation | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        norm, own = self.norm, self.convolution.bias
        assert norm.running_mean is not None, "it keeps statistics"
        assert norm.running_var is not None, "it keeps statistics"
        factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias + ((0.0 if own is None else own) - norm.running_mean) * factor
        return _convolved(images, self.convolution.weight * factor.view(-1, 1, 1, 1), bias, self.convolution, self.activation)


class _Block(nn.Module):
    """ConvNeXt's CNBlock."""

    def __init__(self, block: CNBlock) -> None:
        super().__init__()
        self.depthwise, _, self.norm, self.expand, self.activation, self.contract, _ = block.block
        self.scale, self.stochastic_depth = block.layer_scale, block.stochastic_depth

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scale = self.scale.flatten()
        inside = _convolved(images, self.depthwise.weight, self.depthwise.bias, self.depthwise)
        inside = self.norm(inside.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        inside = self.activation(_pixelwise(inside, self.expand.weight, self.expand.bias))
        inside = _pixelwise(inside, self.contract.weight * scale[:, None], self.contract.bias * scale)
        added: torch.Tensor = images + self.stochastic_depth(inside)
        return added


def _pixelwise(images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A Linear over the channels of (n, channels, h, w)."""
    return _convolved(images, weight[:, :, None, None], bias, _POINT)


def _convolved(
    images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, like: nn.Conv2d, activation: _Activation | None = None
) -> torch.Tensor:
    """`like` with this weight and bias in the place of its own, and an activation behind it."""
    apply: Callable[..., torch.Tensor] = _Convolution.apply if can_fuse(like) else _convolve
    return apply(images, weight, bias, like, activation)


def _convolve(
    images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, like: nn.Conv2d, activation: _Activation | None
) -> torch.Tensor:
    result: torch.Tensor
    if activation is None:
        result = like._conv_forward(images, weight, bias)
    else:
        where = (like.padding, like.stride, like.dilation, like.groups)
        result = torch.ops.mkldnn._convolution_pointwise(images, weight, bias, *where, *activation.post_op)
    return result


_POINT = nn.Conv2d(1, 1, 1, device="meta")


class _Activation(NamedTuple):
    """`post_op` is oneDNN's (see `rewrites`); `gradient` takes one with respect to the results, and the results, to one with respect to
    what they were made of: so nothing else needs to be kept."""

    post_op: PostOp
    gradient: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


_ACTIVATIONS: dict[type[nn.Module], _Activation] = {
    nn.ReLU: _Activation(("relu", [], ""), lambda of, results: torch.ops.aten.threshold_backward(of, results, 0.0)),
    nn.ReLU6: _Activation(("hardtanh", [0.0, 6.0], ""), lambda of, results: torch.ops.aten.hardtanh_backward(of, results, 0.0, 6.0)),
}


class _Convolution(torch.autograd.Function):
    """A convolution with a bias, whose gradient is a plain sum: oneDNN takes up to ten times as long for it."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> torch.Tensor:
        images, weight, _, like, activation = given
        result = _convolve(*given)
        ctx.like, ctx.activation = like, activation
        ctx.save_for_backward(images, weight, *(() if activation is None else (result,)))
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        [gradient], (images, weight, *results), like = gradients, ctx.saved_tensors, ctx.like
        if results:
            gradient = ctx.activation.gradient(gradient, *results)
        where = (like.stride, like.padding, like.dilation, False, [0, 0], like.groups)
        mask = [ctx.needs_input_grad[0], True, False]
        of_images, of_weight, _ = torch.ops.aten.convolution_backward(gradient, images, weight, None, *where, mask)
        return of_images, of_weight, gradient.sum((0, 2, 3)), None, None
