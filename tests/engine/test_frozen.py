"""A network frozen for features and validation computes what the network itself does, and leaves it as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.engine.test_rewrites import ARCHITECTURES, PIXELS, PREPROCESSING, images, network_of, outputs
from thanoproxy.engine.device import choose
from thanoproxy.engine.frozen import Frozen
from thanoproxy.errors import DeviceOutOfMemory
from thanoproxy.models.architecture import Architecture
from thanoproxy.models.mobilenet import V2


@ARCHITECTURES
@pytest.mark.parametrize("training", [True, False])
def test_features_and_logits_are_the_networks(architecture: Architecture, training: bool) -> None:
    network = network_of(architecture)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.inference_mode():
        features = architecture.features(network, images())
    logits = outputs(network, images())
    frozen = Frozen(network.train(training), architecture, PREPROCESSING, choose("cpu"))
    for found, wanted in ((frozen.features(PIXELS), features), (frozen.logits(PIXELS), logits)):
        assert not found.requires_grad
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    assert network.training == training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@ARCHITECTURES
def test_it_does_not_see_what_is_learnt_afterwards(architecture: Architecture) -> None:
    network = network_of(architecture)
    frozen = Frozen(network, architecture, PREPROCESSING, choose("cpu"))
    before = frozen.logits(PIXELS)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(frozen.logits(PIXELS), before)


def test_what_does_not_fit_into_the_memory_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = Frozen(network_of(V2), V2, PREPROCESSING, choose("cpu"))
    wanted, features = frozen.features(PIXELS), type(V2).features
    most = 1

    def too_little(self: Architecture, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        if len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return features(self, network, images)

    monkeypatch.setattr(type(V2), "features", too_little)
    torch.testing.assert_close(frozen.features(PIXELS), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    most = 0
    with pytest.raises(DeviceOutOfMemory, match="not even one image"):
        frozen.features(PIXELS)
