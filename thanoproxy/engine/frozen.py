"""A network as it is at one moment of a BUILD, as fast as predictions of it are: for features, and for validation."""

from __future__ import annotations

import copy

import torch
from torch import nn

from thanoproxy.engine.device import Device, in_halves
from thanoproxy.engine.rewrites import rewritten
from thanoproxy.models.architecture import Architecture
from thanoproxy.models.preprocessing import Preprocessing, normalize

__all__ = ["Frozen"]


class Frozen:
    """A copy of `network`, which stays as it is and is what learns and is published.

    It is rewritten as a `Model` is (`engine.rewrites`), and so computes what a PREDICT with these weights would.
    """

    def __init__(self, network: nn.Module, architecture: Architecture, preprocessing: Preprocessing, device: Device) -> None:
        self._architecture = architecture
        self._device = device
        self._dtype = device.number_format(architecture.half)
        copied = copy.deepcopy(network)
        head = architecture.head(copied)
        self._head = head if self._dtype == torch.float32 else copy.deepcopy(head).to(device.device)
        self._network, self._preprocessing = rewritten(copied, preprocessing, device, self._dtype)

    @torch.no_grad()
    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (n, 3, crop, crop) on the device -> float32 (n, features).

        What does not fit into its memory is halved until it does.  Raises `DeviceOutOfMemory` if one image does not.
        """
        return in_halves(self._device, self._features, pixels)

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._architecture.features(self._network, normalize(pixels, self._preprocessing, self._dtype)).float()

    @torch.no_grad()
    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """The same -> float32 (n, classes)."""
        logits: torch.Tensor = self._head(self.features(pixels))
        return logits
