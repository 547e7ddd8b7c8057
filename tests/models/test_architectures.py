"""What the engine relies on, for every architecture in the registry."""

from __future__ import annotations

import pytest
import torch

from thanoproxy.models.architecture import Architecture, Recipe
from thanoproxy.models.registry import lookup, names


@pytest.fixture(params=names())
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return lookup(request.param).load()


def test_features_and_head_together_are_the_network(architecture: Architecture) -> None:
    torch.manual_seed(0)
    network = architecture.make(5, pretrained=False).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        features = architecture.features(network, images)
        assert features.shape == (2, architecture.head(network).in_features)
        torch.testing.assert_close(architecture.head(network)(features), network(images))


def test_the_head_is_the_layer_it_is_said_to_be(architecture: Architecture) -> None:
    network = architecture.make(7, pretrained=True)
    assert network.state_dict()[architecture.head_name + ".weight"] is not None
    assert architecture.head(network).out_features == 7


def test_depth_rises_from_the_stem_to_the_head(architecture: Architecture) -> None:
    parameters = [name for name, _ in architecture.make(2, pretrained=True).named_parameters()]
    depths = [architecture.depth(name) for name in parameters]
    assert depths == sorted(depths)
    assert depths[0] == 0
    assert depths[-1] == architecture.deepest(parameters) == architecture.depth(architecture.head_name + ".weight")


def test_the_smallest_input_works(architecture: Architecture) -> None:
    network = architecture.make(2, pretrained=False).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, architecture.smallest, architecture.smallest)).shape == (1, 2)


def test_published_weights_keep_their_margin_and_fresh_ones_have_none(architecture: Architecture) -> None:
    published = architecture.preprocessing(input_size=None, color="RGB", pretrained=True)
    assert (published.resize, published.crop) == (architecture.resize, architecture.crop)
    half = architecture.preprocessing(input_size=architecture.crop // 2, color="RGB", pretrained=True)
    assert half.resize == round(architecture.resize / 2)
    fresh = architecture.preprocessing(input_size=32, color="GRAY", pretrained=False)
    assert (fresh.resize, fresh.crop, fresh.color) == (32, 32, "GRAY")


def test_a_rate_the_user_names_is_taken_as_it_is() -> None:
    recipe = Recipe(learning_rate=1e-3, batch_size=64)
    assert recipe.with_options(learning_rate=None, batch_size=16).learning_rate == pytest.approx(5e-4)
    assert recipe.with_options(learning_rate=0.1, batch_size=16).learning_rate == 0.1
    assert recipe.with_options(learning_rate=None, batch_size=None) == recipe
