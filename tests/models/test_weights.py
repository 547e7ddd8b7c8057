"""Pretrained weights: where they are looked for, what is refused, and that nothing is ever silently random."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from thanoproxy.errors import FileUnavailable, InvalidOption
from thanoproxy.models.architecture import Architecture
from thanoproxy.models.convnext import TINY
from thanoproxy.models.efficientnet import V2_S
from thanoproxy.models.mobilenet import V2
from thanoproxy.models.weights import WeightsFinder, put_into


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    """A state dict as torchvision publishes it: a thousand classes."""
    torch.manual_seed(1)
    return V2.make(1000, pretrained=True).state_dict()


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def finder(*roots: Path) -> WeightsFinder:
    return WeightsFinder([str(root) for root in roots])


def test_the_file_an_option_names_is_read_from_a_weights_root(tmp_path: Path, published: dict[str, torch.Tensor]) -> None:
    (tmp_path / "mine").mkdir()
    save_file(published, tmp_path / "mine" / "cats.safetensors")
    torch.save(published, tmp_path / "cats.pth")
    for name in ("mine/cats.safetensors", "cats.pth", str(tmp_path / "cats.pth")):
        found = finder(tmp_path).find(V2, name)
        assert found.name == name
        assert torch.equal(found.tensors["features.0.0.weight"], published["features.0.0.weight"])


@pytest.mark.parametrize("name", ["nothing.pth", "../outside.pth", "/etc/passwd"])
def test_a_named_file_that_is_not_there_is_not_replaced_by_another(tmp_path: Path, published: dict[str, torch.Tensor], name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    torch.save(published, root / V2.weight_files[0])
    torch.save(published, tmp_path / "outside.pth")
    with pytest.raises(FileUnavailable) as caught:
        finder(root).find(V2, name)
    assert caught.value.message == f'weights file "{name}" is not available'


def test_usual_names_are_found_below_the_roots_before_torchs_cache(tmp_path: Path, published: dict[str, torch.Tensor]) -> None:
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save({"from": torch.tensor(1)}, cache / V2.weight_files[0])
    assert "from" in finder(tmp_path / "root").find(V2, None).tensors
    (tmp_path / "root").mkdir()
    save_file(published, tmp_path / "root" / "mobilenet_v2.safetensors")
    assert "from" not in finder(tmp_path / "root").find(V2, None).tensors


def test_without_weights_the_error_names_every_way_to_supply_them(tmp_path: Path) -> None:
    with pytest.raises(FileUnavailable) as caught:
        finder(tmp_path).find(TINY, None)
    assert caught.value.message == "no pretrained weights for ConvNeXt_Tiny were found"
    for way in (
        "OPTIONS (weights=",
        "--weights-root",
        "convnext_tiny-983f1562.pth",
        "TORCH_HOME",
        "DOWNLOAD=true",
        "pretrained=false",
    ):
        assert way in str(caught.value.hint)


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('code ran')",))


@pytest.mark.parametrize("name", ["bad.pth", "bad.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights", pickle.dumps(Hostile(), 2), pickle.dumps([1, 2], 2), bytes(8)])
def test_files_that_hold_no_tensors_are_refused_and_run_no_code(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidOption, match=f'weights file "{name}"'):
        finder(tmp_path).find(V2, name)


def test_a_whole_module_is_no_state_dict(tmp_path: Path) -> None:
    torch.save({"state": [1]}, tmp_path / "module.pth")
    with pytest.raises(InvalidOption, match="holds no state dict"):
        finder(tmp_path).find(V2, "module.pth")


def test_everything_but_the_head_is_copied(tmp_path: Path, published: dict[str, torch.Tensor]) -> None:
    without_counters = {name: tensor for name, tensor in published.items() if not name.endswith("num_batches_tracked")}
    save_file(without_counters, tmp_path / "w.safetensors")
    network = V2.make(3, pretrained=True)
    head = V2.head(network).weight.clone()
    put_into(network, finder(tmp_path).find(V2, "w.safetensors"), V2)
    assert torch.equal(network.state_dict()["features.18.0.weight"], published["features.18.0.weight"])
    assert torch.equal(V2.head(network).weight, head)


@pytest.mark.parametrize(("architecture", "name"), [(TINY, "convnext_tiny-983f1562.pth"), (V2_S, "efficientnet_v2_s-dd5fe13b.pth")])
def test_weights_are_found_under_the_name_torchvision_gives_them(tmp_path: Path, architecture: Architecture, name: str) -> None:
    torch.manual_seed(1)
    state = architecture.make(1000, pretrained=True).state_dict()
    torch.save(state, tmp_path / name)
    network = architecture.make(2, pretrained=True)
    put_into(network, finder(tmp_path).find(architecture, None), architecture)
    loaded = network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items() if not name.startswith(architecture.head_name))


def test_weights_of_another_architecture_are_refused_by_name(tmp_path: Path, published: dict[str, torch.Tensor]) -> None:
    save_file(published, tmp_path / "w.safetensors")
    found = finder(tmp_path).find(TINY, "w.safetensors")
    with pytest.raises(InvalidOption) as caught:
        put_into(TINY.make(3, pretrained=True), found, TINY)
    assert caught.value.message == 'weights file "w.safetensors" does not fit ConvNeXt_Tiny'
    assert "is missing" in str(caught.value.detail)


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path, published: dict[str, torch.Tensor]) -> None:
    save_file({**published, "features.0.0.weight": torch.zeros(32, 1, 3, 3)}, tmp_path / "w.safetensors")
    with pytest.raises(InvalidOption) as caught:
        put_into(V2.make(3, pretrained=True), finder(tmp_path).find(V2, "w.safetensors"), V2)
    assert "features.0.0.weight has shape (32, 1, 3, 3), not (32, 3, 3, 3)" in str(caught.value.detail)
