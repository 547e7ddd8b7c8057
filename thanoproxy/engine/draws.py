"""What a network drops at random while it learns, drawn for the whole of a batch where only some of its rows are computed."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torchvision.ops import StochasticDepth

__all__ = ["Draws"]


class Draws:
    """Makes the modules of `network` that drop something draw for a whole batch, where only `part` of it is computed; until `close`.

    Each is given ones of the batch's size in place of its input, and what comes of these, for the rows that are computed, is what the
    input is multiplied with.  So it is the module's own code with the device's own numbers, and a row is dropped the same whether
    all rows are computed at once, in parts, or in several processes.
    """

    def __init__(self, network: nn.Module) -> None:
        self._whole = 0
        self._rows: slice | None = None
        self._modules = [module for module in network.modules() if isinstance(module, nn.Dropout | StochasticDepth) and module.p > 0]
        for module in self._modules:
            module.forward = partial(self._forward, module, module.forward)  # type: ignore[method-assign]

    @contextmanager
    def part(self, whole: int, places: range, seed: int) -> Generator[None, None, None]:
        """The rows computed in the block are those at `places` of a batch of `whole` rows, whose numbers come of `seed`."""
        torch.manual_seed(seed)
        self._whole, self._rows = whole, slice(places.start, places.stop, places.step)
        try:
            yield
        finally:
            self._rows = None

    def close(self) -> None:
        """The network is as it was."""
        while self._modules:
            del self._modules.pop().forward

    def _forward(self, module: nn.Module, draw: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        if self._rows is None or not module.training:
            return draw(images)
        # A path is dropped for a whole row, so one number a row is drawn.
        each = images.shape[1:] if isinstance(module, nn.Dropout) else [1] * (images.dim() - 1)
        return images * draw(images.new_ones(self._whole, *each))[self._rows]
