"""EfficientNetV2 (Tan and Le, "EfficientNetV2: Smaller Models and Faster Training", 2021), as torchvision builds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torchvision.models import efficientnet as torchvision_efficientnet

from thanoproxy.models.architecture import Architecture, Recipe

__all__ = ["V2_M", "V2_S", "EfficientNetV2"]


@dataclass(frozen=True, kw_only=True)
class EfficientNetV2(Architecture):
    """features (stem, stages, a last convolution) - mean over the picture - classifier (Dropout, Linear)."""

    constructor: Callable[..., nn.Module]

    def make(self, classes: int, *, pretrained: bool, drop_path: float = 0.0) -> nn.Module:
        return self.constructor(weights=None, num_classes=classes, dropout=drop_path, stochastic_depth_prob=drop_path)

    def features(self, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        blocks: torch.Tensor = network.get_submodule("features")(images)
        return blocks.mean((2, 3))


# Section 5.3 of the paper: a rate of 1e-3 at 512 images, which is 3.5e-4 at 64, with cosine decay and no weight decay.
_FINE_TUNE = Recipe(
    learning_rate=3.5e-4, batch_size=64, weight_decay=0.0, label_smoothing=0.1, layer_decay=0.85, head_factor=3.0, drop_path=0.2
)
_FROM_SCRATCH = Recipe(learning_rate=2e-3, batch_size=64, warmup=0.1)


def _size(name: str, constructor: Callable[..., nn.Module], *, blocks: int, digits: str, side: int) -> EfficientNetV2:
    """One size of the family; `digits` are the first ones of the sha256 of its published weights."""
    usual = constructor.__name__
    return EfficientNetV2(
        name=name,
        constructor=constructor,
        blocks=blocks,
        resize=side,
        crop=side,
        smallest=33,  # torchvision's own bound for these weights
        weight_files=(f"{usual}-{digits}.pth", f"{usual}.safetensors", f"{usual}_imagenet.safetensors"),
        url=f"https://download.pytorch.org/models/{usual}-{digits}.pth",
        fine_tune=_FINE_TUNE,
        from_scratch=_FROM_SCRATCH,
    )


V2_S = _size("EfficientNetV2S", torchvision_efficientnet.efficientnet_v2_s, blocks=8, digits="dd5fe13b", side=384)
V2_M = _size("EfficientNetV2M", torchvision_efficientnet.efficientnet_v2_m, blocks=9, digits="dc08266a", side=480)
