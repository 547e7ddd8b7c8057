"""A training that is to end does so within a batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.engine.test_training import MakeTrainer, make_trainer, train
from thanoproxy.engine.interrupting import call_between_layers
from thanoproxy.errors import Canceled

__all__ = ["make_trainer"]


def calls_until(limit: int) -> tuple[list[int], Callable[[], None]]:
    """Something to be called, that raises when it is called for the `limit`th time; how often it was."""
    called = [0]

    def go_on() -> None:
        called[0] += 1
        if called[0] >= limit:
            raise Canceled("enough")

    return called, go_on


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2))


def test_it_is_asked_behind_each_layer_both_ways() -> None:
    network = small()
    called, go_on = calls_until(100)
    call_between_layers(network, go_on)
    scores = network(torch.ones(3, 4))
    assert called == [4]
    scores.sum().backward()
    assert called == [8]


@pytest.mark.parametrize("at", [2, 6])
def test_what_it_raises_comes_out_of_the_pass(at: int) -> None:
    network = small()
    called, go_on = calls_until(at)
    call_between_layers(network, go_on)
    with pytest.raises(Canceled, match="enough"):
        network(torch.ones(3, 4)).sum().backward()
    assert called == [at]


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_training_ends_in_the_middle_of_a_batch(make_trainer: MakeTrainer, share: float) -> None:
    """At the end of the first batch it would have been asked many times more."""
    called, go_on = calls_until(1 << 30)
    whole = make_trainer(go_on=go_on)
    train(whole)
    a_step = called[0] // whole.steps_done
    assert a_step > 100

    called, go_on = calls_until(int(share * a_step))
    trainer = make_trainer(go_on=go_on)
    with pytest.raises(Canceled, match="enough"):
        train(trainer)
    assert called == [int(share * a_step)]
    assert trainer.steps_done == 0
