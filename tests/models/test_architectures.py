"""What the engine relies on, for every architecture in the registry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models
from torchvision.models import WeightsEnum

from tests.images.pictures import RED, noisy
from thanoproxy.models.architecture import Architecture, Recipe
from thanoproxy.models.preprocessing import center_crop, normalize, scale
from thanoproxy.models.registry import lookup, names


@pytest.fixture(params=names(), scope="module")
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return lookup(request.param).load()


@pytest.fixture(scope="module")
def network(architecture: Architecture) -> nn.Module:
    """With numbers in it, drawn more cheaply than by the network's own rules: the largest one has 200 million."""
    network = shapes(architecture, 5, pretrained=False).to_empty(device="cpu").eval()
    torch.manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.ndim > 1:
            tensor.uniform_(-1, 1).div_(tensor[0].numel() ** 0.5)
        elif not name.endswith("num_batches_tracked"):
            tensor.uniform_(0.5, 1.5)
    return network


def shapes(architecture: Architecture, classes: int, *, pretrained: bool) -> nn.Module:
    """The network without numbers in it."""
    with torch.device("meta"):
        return architecture.make(classes, pretrained=pretrained)


def published(architecture: Architecture) -> WeightsEnum:
    """What torchvision says of the weights that are downloaded from `url`."""
    every = (one for name in torchvision_models.list_models(torchvision_models) for one in torchvision_models.get_model_weights(name))
    return next(one for one in every if one.url == architecture.url)


def test_features_and_head_together_are_the_network(architecture: Architecture, network: nn.Module) -> None:
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        features = architecture.features(network, images)
        assert features.shape == (2, architecture.head(network).in_features)
        scores = network(images)
        torch.testing.assert_close(architecture.head(network)(features), scores, rtol=1e-5, atol=1e-5)
    assert not torch.equal(scores[0], scores[1]), "they depend on the image"


def test_the_published_weights_fit_and_images_are_prepared_as_for_them(architecture: Architecture) -> None:
    theirs, ours = published(architecture), architecture.preprocessing(input_size=None, color="RGB", pretrained=True)
    transforms = theirs.transforms()
    assert ([ours.resize], [ours.crop], ours.interpolation) == (
        transforms.resize_size,
        transforms.crop_size,
        transforms.interpolation.value,
    )
    pixels = torch.from_numpy(np.array(noisy(RED, 3, 90).resize((600, 500)))).permute(2, 0, 1)
    prepared = normalize(center_crop(scale(pixels, ours), ours)[None], ours, torch.float32)[0]
    # One level of 255 apart: torchvision's older transforms scale in floats and round, its newer ones and ours in integers.
    torch.testing.assert_close(prepared, transforms(pixels), rtol=0, atol=1.01 / 255 / min(ours.std))
    assert theirs.url.endswith("/" + architecture.weight_files[0])
    counted = sum(parameter.numel() for parameter in shapes(architecture, 1000, pretrained=True).parameters())
    assert counted == theirs.meta["num_params"]
    assert architecture.smallest >= max(theirs.meta["min_size"])


def test_the_head_is_the_layer_it_is_said_to_be(architecture: Architecture) -> None:
    network = shapes(architecture, 7, pretrained=True)
    assert network.state_dict()[architecture.head_name + ".weight"] is not None
    assert architecture.head(network).out_features == 7


def test_depth_rises_from_the_stem_to_the_head(architecture: Architecture) -> None:
    parameters = [name for name, _ in shapes(architecture, 2, pretrained=True).named_parameters()]
    depths = [architecture.depth(name) for name in parameters]
    assert depths == sorted(depths)
    assert sorted(set(depths)) == list(range(architecture.blocks + 1))
    assert depths[-1] == architecture.deepest(parameters) == architecture.depth(architecture.head_name + ".weight")


def test_the_smallest_input_works(architecture: Architecture, network: nn.Module) -> None:
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, architecture.smallest, architecture.smallest)).shape == (1, 5)


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
