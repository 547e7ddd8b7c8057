"""Architectures by name, for those who may not import torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from thanoproxy.errors import UndefinedObject
from thanoproxy.models.registry import ARCHITECTURES, lookup, names


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_case_does_not_matter(name: str) -> None:
    assert lookup(name.lower()) == lookup(name.upper()) == lookup(name)
    assert lookup(name.lower()).name == name


def test_torchvisions_spelling_will_do() -> None:
    assert lookup("efficientnet_v2_s") == lookup("EfficientNet_V2_S") == lookup("EfficientNetV2S")


def test_an_unknown_one_is_answered_with_those_known_and_the_nearest() -> None:
    with pytest.raises(UndefinedObject) as caught:
        lookup("ConvNext_Tinny")
    assert caught.value.message == 'architecture "ConvNext_Tinny" does not exist'
    assert caught.value.hint == "Did you mean ConvNeXt_Tiny?"
    assert all(name in str(caught.value.detail) for name in names())
    with pytest.raises(UndefinedObject) as caught:
        lookup("zzz")
    assert caught.value.hint is None


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_entry_loads_and_knows_its_name(name: str) -> None:
    assert lookup(name).load().name == name


def test_looking_up_imports_no_torch() -> None:
    code = "import sys; from thanoproxy.models import registry; registry.lookup('convnext_tiny'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
