"""Put on the PYTHONPATH of worker processes: an image `assert:…` has the device fail for good with the next batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from thanoproxy import images
from thanoproxy.images.source import Source


class Deadly(Source):
    @classmethod
    def open(cls, image_roots: Sequence[str]) -> Self:
        return cls()

    def claims(self, image: str | bytes) -> bool:
        return isinstance(image, str) and image.startswith("assert:")

    def read(self, image: str | bytes) -> bytes:
        import torch

        from thanoproxy.engine import inference

        def outside(pixels: torch.Tensor, *_: object) -> torch.Tensor:
            # An index that is not there: a device-side assert, after which every call of this process fails.
            return pixels[torch.full((1,), 1 << 20, device=pixels.device)]

        inference.normalize = outside
        return b""


images.SOURCES = (Deadly, *images.SOURCES)
