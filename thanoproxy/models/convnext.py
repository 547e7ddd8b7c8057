"""ConvNeXt (Liu et al., "A ConvNet for the 2020s", 2022), as torchvision builds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn
from torchvision.models import convnext as torchvision_convnext

from thanoproxy.models.architecture import Architecture, Recipe

__all__ = ["BASE", "LARGE", "SMALL", "TINY", "ConvNeXt"]


@dataclass(frozen=True, kw_only=True)
class ConvNeXt(Architecture):
    """features (stem, stages and downsamplings in turn) - avgpool - classifier (LayerNorm2d, Flatten, Linear)."""

    blocks: int = 8
    head_name: str = "classifier.2"
    # Without batch norm nothing bounds its activations; and bf16 puts its features off by no more than a hundredth of their length.
    half: torch.dtype = torch.bfloat16
    constructor: Callable[..., nn.Module]

    def make(self, classes: int, *, pretrained: bool, drop_path: float = 0.0) -> nn.Module:
        # A layer scale of 1e-6 needs hundreds of epochs to open up; 0.1 learns within a few.
        layer_scale = 1e-6 if pretrained else 0.1
        return self.constructor(weights=None, num_classes=classes, stochastic_depth_prob=drop_path, layer_scale=layer_scale)

    def features(self, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        pooled = network.get_submodule("avgpool")(network.get_submodule("features")(images))
        features: torch.Tensor = network.get_submodule("classifier.0")(pooled).flatten(1)
        return features


# Woo's fine-tuning settings (layer-wise decay, warm-up, cosine), shortened for a few epochs; from scratch for small sets on a CPU.
_FINE_TUNE = Recipe(learning_rate=1e-4, batch_size=128, label_smoothing=0.1, layer_decay=0.75, head_factor=10.0, drop_path=0.1)
_FROM_SCRATCH = Recipe(learning_rate=6e-4, batch_size=64, warmup=0.2)


def _size(name: str, constructor: Callable[..., nn.Module], *, digits: str, resize: int, drop_path: float = 0.1) -> ConvNeXt:
    """One size of the family; `digits` are the first ones of the sha256 of its published weights."""
    usual = name.lower()
    return ConvNeXt(
        name=name,
        constructor=constructor,
        resize=resize,
        crop=224,
        smallest=32,
        weight_files=(f"{usual}-{digits}.pth", f"{usual}.safetensors", f"{usual}_imagenet.safetensors"),
        url=f"https://download.pytorch.org/models/{usual}-{digits}.pth",
        fine_tune=replace(_FINE_TUNE, drop_path=drop_path),
        from_scratch=_FROM_SCRATCH,
    )


# The larger ones drop more paths, as when they were fine-tuned at 224 pixels (github.com/facebookresearch/ConvNeXt, TRAINING.md).
TINY = _size("ConvNeXt_Tiny", torchvision_convnext.convnext_tiny, digits="983f1562", resize=236)
SMALL = _size("ConvNeXt_Small", torchvision_convnext.convnext_small, digits="0c510722", resize=230)
BASE = _size("ConvNeXt_Base", torchvision_convnext.convnext_base, digits="6075fbad", resize=232, drop_path=0.2)
LARGE = _size("ConvNeXt_Large", torchvision_convnext.convnext_large, digits="ea097f82", resize=232, drop_path=0.3)
