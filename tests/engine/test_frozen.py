"""A network frozen for features and validation computes what the network itself does, and leaves it as it was."""

from __future__ import annotations

import pytest
import torch

from tests.engine.test_rewrites import ARCHITECTURES, PIXELS, PREPROCESSING, images, network_of, outputs
from thanoproxy.engine.device import choose
from thanoproxy.engine.frozen import Frozen
from thanoproxy.models.architecture import Architecture


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
