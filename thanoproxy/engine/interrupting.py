"""Stopping in the middle of a batch: on a CPU the gradients of 32 images take up to ten seconds, for whose end nobody shall wait."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

__all__ = ["GoOn", "call_between_layers"]

GoOn = Callable[[], None]
"""Returns, or raises why the work is to end."""


def call_between_layers(network: nn.Module, go_on: GoOn) -> None:
    """Have `go_on` called behind each layer of `network`, forwards and backwards; what it raises comes out of the pass.

    A layer is a module that has none inside.  The gradients are worth nothing after that.
    """

    def backwards(_: torch.Tensor) -> None:
        go_on()

    def forwards(_: nn.Module, __: object, output: object) -> None:
        go_on()
        if isinstance(output, torch.Tensor) and output.requires_grad:
            output.register_hook(backwards)  # type: ignore[no-untyped-call]

    for module in network.modules():
        if next(module.children(), None) is None:
            module.register_forward_hook(forwards)
