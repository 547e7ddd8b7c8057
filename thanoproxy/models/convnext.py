"""ConvNeXt (Liu et al., "A ConvNet for the 2020s", 2022), as torchvision builds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torchvision.models import convnext as torchvision_convnext

from thanoproxy.models.architecture import Architecture, Recipe

__all__ = ["TINY", "ConvNeXt"]


@dataclass(frozen=True, kw_only=True)
class ConvNeXt(Architecture):
    """features (stem, stages and downsamplings in turn) - avgpool - classifier (LayerNorm2d, Flatten, Linear)."""

    constructor: Callable[..., nn.Module]

    def make(self, classes: int, *, pretrained: bool, drop_path: float = 0.0) -> nn.Module:
        # A layer scale of 1e-6 needs hundreds of epochs to open up; 0.1 learns within a few.
        layer_scale = 1e-6 if pretrained else 0.1
        return self.constructor(weights=None, num_classes=classes, stochastic_depth_prob=drop_path, layer_scale=layer_scale)

    def head(self, network: nn.Module) -> nn.Linear:
        head = network.get_submodule(self.head_name)
        assert isinstance(head, nn.Linear), "torchvision's classifier ends in a Linear"
        return head

    @property
    def head_name(self) -> str:
        return "classifier.2"

    def features(self, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        pooled = network.get_submodule("avgpool")(network.get_submodule("features")(images))
        features: torch.Tensor = network.get_submodule("classifier.0")(pooled).flatten(1)
        return features

    def depth(self, parameter: str) -> int:
        part, index = parameter.split(".")[:2]
        return int(index) if part == "features" else 8


# Woo's fine-tuning settings (layer-wise decay, warm-up, cosine), shortened for a few epochs; from scratch for small sets on a CPU.
TINY = ConvNeXt(
    name="ConvNeXt_Tiny",
    constructor=torchvision_convnext.convnext_tiny,
    resize=236,
    crop=224,
    smallest=32,
    weight_files=("convnext_tiny-983f1562.pth", "convnext_tiny.safetensors", "convnext_tiny_imagenet.safetensors"),
    url="https://download.pytorch.org/models/convnext_tiny-983f1562.pth",
    fine_tune=Recipe(learning_rate=1e-4, batch_size=128, label_smoothing=0.1, layer_decay=0.75, head_factor=10.0, drop_path=0.1),
    from_scratch=Recipe(learning_rate=6e-4, batch_size=64, warmup=0.2),
)
