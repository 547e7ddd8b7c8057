"""What learns on a CPU is the same function of images and parameters, with the same gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.engine.test_rewrites import ARCHITECTURES, images, network_of
from thanoproxy.engine.lighter import fold_kept_batch_norm, lighter, rewrite_blocks
from thanoproxy.models.architecture import Architecture
from thanoproxy.models.convnext import TINY
from thanoproxy.models.mobilenet import V2

LABELS = torch.tensor([4, 0, 2])


def learnt(network: nn.Module, parameters: nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Scores of `network`, and the gradients that its loss leaves in `parameters`."""
    parameters.zero_grad()
    dtype = next(network.parameters()).dtype
    scores = network(images().to(dtype, memory_format=torch.channels_last))
    nn.functional.cross_entropy(scores, LABELS).backward()
    gradients = {name: one.grad.clone() for name, one in parameters.named_parameters() if one.grad is not None}
    assert gradients.keys() == dict(parameters.named_parameters()).keys(), "everything learns"
    return scores.detach(), gradients


def shallow(network: nn.Module) -> nn.Module:
    """Two blocks of each stage: any others are of the second one's shape."""
    for name, stage in network.get_submodule("features").named_children():
        if isinstance(stage, nn.Sequential) and len({type(block) for block in stage}) == 1:
            network.set_submodule(f"features.{name}", stage[:2])
    return network


@ARCHITECTURES
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-2)], ids=str)
def test_all_of_them_together(architecture: Architecture, dtype: torch.dtype, tolerance: float) -> None:
    """In 64 bits it is seen to be the same function; in 32 a pixel may come to lie on the other side of an activation's edge."""
    network = network_of(architecture).to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if dtype == torch.float64:
        network = shallow(network)  # its convolutions are none of oneDNN's, which takes seconds
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    other = lighter(network, keeps_statistics=True).eval()
    (wanted, gradients), (found, others) = learnt(network, network), learnt(other, network)
    for name, (one, another) in {"scores": (wanted, found), **{name: (gradients[name], others[name]) for name in gradients}}.items():
        assert float((another - one).norm()) <= tolerance * float(one.norm()) + 1e-6 * tolerance, name
    assert {id(one) for one in other.parameters()} == {id(one) for one in network.parameters()}, "the optimizer's are these"
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.state_dict().keys() == before.keys()


def test_kept_statistics_stay_whatever_the_mode() -> None:
    network = network_of(V2)
    before = network.state_dict()["features.0.1.running_mean"].clone()
    other = fold_kept_batch_norm(copy.deepcopy(network)).train()
    torch.testing.assert_close(other(images()), network(images()), rtol=1e-3, atol=1e-4)
    assert torch.equal(other.state_dict()["features.0.0.norm.running_mean"], before)
    assert not any(
        isinstance(module, nn.Sequential) and any(isinstance(one, nn.BatchNorm2d) for one in module) for module in other.modules()
    )


def test_batch_norm_that_learns_is_left_alone_and_shared() -> None:
    network = network_of(V2).train()
    before = network.state_dict()["features.0.1.running_mean"].clone()
    other = lighter(network, keeps_statistics=False).train()
    other(images())
    assert not torch.equal(network.state_dict()["features.0.1.running_mean"], before)


def test_steps_are_seen_at_once() -> None:
    network = network_of(V2)
    other = lighter(network, keeps_statistics=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = other(images()).detach()
    learnt(other, network)
    optimizer.step()
    after = other(images()).detach()
    assert not torch.allclose(after, before, rtol=1e-3)
    torch.testing.assert_close(after, network(images()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_paths_are_dropped_as_before(training: bool) -> None:
    torch.manual_seed(0)
    network = TINY.make(3, pretrained=False, drop_path=0.5).train(training)
    other = rewrite_blocks(copy.deepcopy(network)).train(training)
    scores = []
    for one in (network, other):
        torch.manual_seed(7)
        scores.append(one(images()))
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-4, atol=1e-5)
