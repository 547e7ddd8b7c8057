"""What an architecture is to the engine: how to make its network, where its parts are, how it sees and how it learns.

The network is torchvision's own module, so that state dicts keep torchvision's names; an `Architecture` says which part of it
is the backbone (images to features) and which the head (features to classes).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from thanoproxy.models.preprocessing import Preprocessing

__all__ = ["Architecture", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained, where the user has not said otherwise.

    `learning_rate` is for a batch of `batch_size` and scales with the square root of another size.  `layer_decay` multiplies
    the rate once for every block further from the head, `head_factor` multiplies the head's own.  `warmup` is a share of all
    steps.
    """

    learning_rate: float
    batch_size: int
    weight_decay: float = 0.05
    warmup: float = 0.05
    clip: float = 1.0
    label_smoothing: float = 0.0
    layer_decay: float = 1.0
    head_factor: float = 1.0
    drop_path: float = 0.0

    def with_options(self, *, learning_rate: float | None, batch_size: int | None) -> Recipe:
        """This recipe with what the user has set; a rate the user names is taken as it is."""
        size = batch_size or self.batch_size
        rate = learning_rate or self.learning_rate * (size / self.batch_size) ** 0.5
        return replace(self, learning_rate=rate, batch_size=size)


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """One entry of the registry: a network of `features`, which are `blocks` parts in a row, and a classifier.

    `head_name` is the last layer's name in the state dict.  `resize` and `crop` are those of the published weights, in pixels.
    `half` is the number format that a GPU predicts in: float16 rounds eight times finer than bfloat16, and ends at 65504.
    `weight_files` are the names under which torchvision and others keep those weights, best first; `url` is where they may be
    downloaded from, its name ending in the first digits of its sha256.
    """

    name: str
    blocks: int
    head_name: str = "classifier.1"
    resize: int
    crop: int
    smallest: int
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    half: torch.dtype = torch.float16
    weight_files: tuple[str, ...]
    url: str
    fine_tune: Recipe
    from_scratch: Recipe

    @abstractmethod
    def make(self, classes: int, *, pretrained: bool, drop_path: float = 0.0) -> nn.Module:
        """A network with randomly drawn weights; `pretrained` tells that weights are going to be loaded into it."""

    def head(self, network: nn.Module) -> nn.Linear:
        """The last layer: features to class scores."""
        head = network.get_submodule(self.head_name)
        assert isinstance(head, nn.Linear), "torchvision's classifier ends in a Linear"
        return head

    @abstractmethod
    def features(self, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """Everything before the head: (n, 3, h, w) -> (n, head.in_features)."""

    def depth(self, parameter: str) -> int:
        """How many blocks lie between the input and the block that owns `parameter`; the head is deepest."""
        part, index = parameter.split(".")[:2]
        return int(index) if part == "features" else self.blocks

    def preprocessing(self, *, input_size: int | None, color: Literal["RGB", "GRAY"], pretrained: bool) -> Preprocessing:
        """How images are prepared for `input_size` pixels (None: the published size).

        Published weights want the margin they were evaluated with; a network from scratch sees the whole short side.
        """
        crop = input_size or self.crop
        resize = round(crop * self.resize / self.crop) if pretrained else crop
        return Preprocessing(resize=resize, crop=crop, interpolation=self.interpolation, color=color)

    def deepest(self, parameters: Iterable[str]) -> int:
        """The depth of the head."""
        return max(self.depth(name) for name in parameters)
