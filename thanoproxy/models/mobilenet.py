"""MobileNetV2 (Sandler et al., 2018), as torchvision builds it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torchvision.models import mobilenetv2 as torchvision_mobilenet

from thanoproxy.models.architecture import Architecture, Recipe

__all__ = ["V2", "MobileNetV2"]


@dataclass(frozen=True, kw_only=True)
class MobileNetV2(Architecture):
    """features (19 blocks) - mean over the picture - classifier (Dropout, Linear)."""

    def make(self, classes: int, *, pretrained: bool, drop_path: float = 0.0) -> nn.Module:
        # Its dropout serves 1000 classes and hundreds of epochs; here weight decay and few epochs do.
        network: nn.Module = torchvision_mobilenet.mobilenet_v2(weights=None, num_classes=classes, dropout=drop_path)
        return network

    def features(self, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        blocks: torch.Tensor = network.get_submodule("features")(images)
        return blocks.mean((2, 3))


V2 = MobileNetV2(
    name="MobileNet_V2",
    blocks=19,
    resize=232,
    crop=224,
    smallest=32,
    weight_files=(
        "mobilenet_v2-7ebf99e0.pth",
        "mobilenet_v2-b0353104.pth",
        "mobilenet_v2.safetensors",
        "mobilenet_v2_imagenet.safetensors",
    ),
    url="https://download.pytorch.org/models/mobilenet_v2-7ebf99e0.pth",
    fine_tune=Recipe(learning_rate=3e-4, batch_size=64, weight_decay=0.01, label_smoothing=0.1, layer_decay=0.85, head_factor=3.0),
    from_scratch=Recipe(learning_rate=2e-3, batch_size=64, warmup=0.1),
)
