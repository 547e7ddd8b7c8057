"""Rewritten networks are the same functions: what PREDICT computes is what was trained."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from thanoproxy.engine import rewrites
from thanoproxy.engine.device import choose
from thanoproxy.models.architecture import Architecture
from thanoproxy.models.convnext import TINY
from thanoproxy.models.efficientnet import V2_S
from thanoproxy.models.mobilenet import V2
from thanoproxy.models.preprocessing import Preprocessing, normalize

PIXELS = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
PREPROCESSING = Preprocessing(resize=64, crop=64)
ARCHITECTURES = pytest.mark.parametrize("architecture", [V2, TINY, V2_S], ids=lambda one: one.name)


def network_of(architecture: Architecture) -> nn.Module:
    """As a training leaves it: statistics, scales and biases are none of those it began with."""
    torch.manual_seed(0)
    network = architecture.make(5, pretrained=False)
    with torch.no_grad():
        network(images())
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter) * parameter.abs().mean()
    return network.eval()


def images() -> torch.Tensor:
    return normalize(PIXELS, PREPROCESSING, torch.float32)


@torch.inference_mode()
def outputs(network: nn.Module, of: torch.Tensor) -> torch.Tensor:
    scores: torch.Tensor = network(of)
    return scores


@ARCHITECTURES
def test_all_of_them_together(architecture: Architecture) -> None:
    network = network_of(architecture)
    wanted = outputs(network, images())
    fast, preprocessing = rewrites.rewritten(copy.deepcopy(network), PREPROCESSING, choose("cpu"))
    found = outputs(fast, normalize(PIXELS, preprocessing, torch.float32))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    assert isinstance(architecture.head(fast), nn.Linear), "the head stays as it is: FIT and vectors look for it"


@ARCHITECTURES
@pytest.mark.parametrize("size", [(1, 32), (5, 96), (2, 75)], ids=str)
def test_other_sizes_than_the_first(architecture: Architecture, size: tuple[int, int]) -> None:
    """oneDNN's weights are laid out before any image is seen."""
    network = network_of(architecture)
    fast, _ = rewrites.rewritten(copy.deepcopy(network), rewrites.RAW, choose("cpu"))
    number, side = size
    some = torch.randn(number, 3, side, side)
    torch.testing.assert_close(outputs(fast, some), outputs(network, some), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs(fast, some.contiguous(memory_format=torch.channels_last)), outputs(fast, some), rtol=1e-4, atol=1e-4)


def test_batch_norm_goes_into_convolutions() -> None:
    network = network_of(V2)
    wanted = outputs(network, images())
    folded = rewrites.fold_batch_norm(network)
    torch.testing.assert_close(outputs(folded, images()), wanted, rtol=1e-3, atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_layer_scale_goes_into_the_second_linear() -> None:
    network = network_of(TINY)
    wanted = outputs(network, images())
    folded = rewrites.fold_layer_scale(network)
    torch.testing.assert_close(outputs(folded, images()), wanted, rtol=1e-4, atol=1e-5)
    assert not any("layer_scale" in name for name, _ in folded.named_parameters())


def test_mean_and_deviation_go_into_a_first_layer_that_pads_nothing() -> None:
    network = network_of(TINY)
    wanted = outputs(network, images())
    preprocessing = rewrites.fold_normalization(network, PREPROCESSING)
    raw = normalize(PIXELS, preprocessing, torch.float32)
    assert raw.max() == PIXELS.max(), "pixels as they are"
    torch.testing.assert_close(outputs(network, raw), wanted, rtol=1e-4, atol=1e-5)
    assert rewrites.fold_normalization(network_of(V2), PREPROCESSING) == PREPROCESSING, "a zero beside the picture stands for its mean"


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.Hardswish()], ids=lambda one: type(one).__name__)
def test_activations_go_into_convolutions(activation: nn.Module) -> None:
    plain = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False), nn.Identity(), activation, nn.Conv2d(8, 8, 3, groups=8))
    fused = rewrites.fuse(copy.deepcopy(plain))
    some = 4 * torch.randn(2, 4, 17, 17)
    torch.testing.assert_close(outputs(fused, some), outputs(plain, some), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, nn.Conv2d | type(activation)) for module in fused.modules())


def test_what_cannot_be_fused_is_left_alone() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.Conv2d(4, 4, 3, padding="same"), nn.Tanh())
    fused = rewrites.fuse(copy.deepcopy(plain))
    some = torch.randn(2, 3, 9, 9)
    assert torch.equal(outputs(fused, some), outputs(plain, some))
