"""What a network drops at random while it learns, drawn for the whole of a batch, however it is divided."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torchvision.ops import StochasticDepth

__all__ = ["Draws"]


class Draws:
    """Has the modules of `network` that drop something draw for a whole batch, where only `part` of it is computed.

    Each is given ones of the batch's size in place of its input, and what comes of these, for the rows that are computed, is what the
    input is multiplied with.  So it is the module's own code with the device's own numbers, and a row is dropped the same whether
    all rows are computed at once, in parts (because there is no memory for more), or in several processes.
    """

    def __init__(self, network: nn.Module) -> None:
        self._modules = [module for module in network.modules() if isinstance(module, nn.Dropout | StochasticDepth) and module.p > 0]

    @contextmanager
    def part(self, whole: int, places: range, seed: int) -> Generator[None, None, None]:
        """The rows computed in the block are those at `places` of a batch of `whole` rows, whose numbers come of `seed`."""
        torch.manual_seed(seed)
        rows = slice(places.start, places.stop, places.step)
        for module in self._modules:
            module.forward = partial(_drop, module, module.forward, whole, rows)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for module in self._modules:
                del module.forward


def _drop(module: nn.Module, draw: Callable[[torch.Tensor], torch.Tensor], whole: int, rows: slice, images: torch.Tensor) -> torch.Tensor:
    if not module.training:
        return images
    # A path is dropped for a whole row, so one number a row is drawn.
    each = images.shape[1:] if isinstance(module, nn.Dropout) else [1] * (images.dim() - 1)
    return images * draw(images.new_ones(whole, *each))[rows]
