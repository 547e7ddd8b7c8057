"""What is dropped at random is the same, whichever rows of a batch are computed together."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.ops import StochasticDepth

from thanoproxy.engine.draws import Draws


def test_rows_computed_apart_drop_what_they_would_together() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), StochasticDepth(0.5, "row"), nn.Dropout(0.3), nn.AvgPool2d(6), nn.Flatten(), nn.Dropout(0.5, inplace=True)
    )
    images = torch.randn(10, 3, 8, 8)
    torch.manual_seed(7)
    whole = network(images)
    assert 0 < int((whole == 0).sum()) < whole.numel()

    draws, apart = Draws(network), torch.empty_like(whole)
    for places in (range(0, 10, 3), range(1, 10, 3)[:2], range(1, 10, 3)[2:], range(2, 10, 3)):
        with draws.part(10, places, 7):
            apart[list(places)] = network(images[list(places)])
    torch.testing.assert_close(apart, whole)
    assert torch.equal(apart == 0, whole == 0)

    network.eval()
    with draws.part(10, range(3), 7):
        assert int((network(images) == 0).sum()) == 0
    network.train()
    torch.manual_seed(7)
    assert torch.equal(network(images), whole), "as it comes, outside of a part"
