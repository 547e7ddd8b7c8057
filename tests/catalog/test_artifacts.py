"""Artifacts: named by what is in them, written whole, and verified on every load."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from thanoproxy.catalog.artifacts import ArtifactStore, Folder, Saved, open_store
from thanoproxy.errors import ArtifactCorrupt, ConfigurationError, FileFailure

WEIGHTS = b"\x08\0\0\0\0\0\0\0{}      " + bytes(100)


def save(store: ArtifactStore, weights: bytes = WEIGHTS, **changes: Any) -> Saved:
    plain: dict[str, Any] = {
        "architecture": "MobileNet_V2",
        "classes": ["cat", "dog"],
        "preprocessing": {"resize": 232, "crop": 224},
        "metrics": {"accuracy": 0.9, "loss": None},
        "options": {"epochs": 1},
        "software": {"torch": "2.14"},
    }
    return store.save(weights, **{**plain, **changes})


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store(f"file://{tmp_path}/models")


def files(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "models").rglob("*") if path.is_file())


def test_what_was_saved_is_loaded(store: ArtifactStore) -> None:
    saved = save(store)
    manifest = store.manifest(saved.id)
    assert (manifest.architecture, manifest.classes, manifest.metrics) == (
        "MobileNet_V2",
        ["cat", "dog"],
        {"accuracy": 0.9, "loss": None},
    )
    assert store.weights(saved.id, manifest) == WEIGHTS


def test_the_name_is_the_hash_of_the_manifest_which_has_the_hash_of_the_weights(store: ArtifactStore, tmp_path: Path) -> None:
    saved = save(store)
    text = (tmp_path / "models" / "manifests" / f"{saved.id}.json").read_bytes()
    assert hashlib.sha256(text).hexdigest() == saved.id
    digest = json.loads(text)["weights_sha256"]
    assert (tmp_path / "models" / "weights" / f"{digest}.safetensors").read_bytes() == WEIGHTS
    assert digest == hashlib.sha256(WEIGHTS).hexdigest()
    assert saved.size_bytes == len(text) + len(WEIGHTS)


def test_other_classes_make_another_artifact_of_the_same_weights(store: ArtifactStore, tmp_path: Path) -> None:
    one, two = save(store), save(store, classes=["dog", "cat"])
    assert one.id != two.id
    assert len(files(tmp_path)) == 3
    store.delete(one.id)
    assert store.weights(two.id, store.manifest(two.id)) == WEIGHTS
    store.delete(two.id)
    store.delete(two.id)
    assert files(tmp_path) == []


@pytest.mark.parametrize("change", ["flip", "truncate", "empty", "extend", "remove"])
@pytest.mark.parametrize("which", ["manifests", "weights"])
def test_any_change_to_a_file_is_found_on_the_next_load(store: ArtifactStore, tmp_path: Path, which: str, change: str) -> None:
    saved = save(store)
    path = next((tmp_path / "models" / which).iterdir())
    data = path.read_bytes()
    changed = {"flip": data[:-1] + bytes([data[-1] ^ 1]), "truncate": data[:-1], "empty": b"", "extend": data + b" "}
    path.unlink()
    if change != "remove":
        path.write_bytes(changed[change])
    with pytest.raises(ArtifactCorrupt, match=f"model artifact {saved.id[:12]}… cannot be used") as caught:
        store.weights(saved.id, store.manifest(saved.id))
    assert "BUILD the model again" in str(caught.value.hint)


def test_saving_again_heals_a_damaged_file(store: ArtifactStore, tmp_path: Path) -> None:
    saved = save(store)
    next((tmp_path / "models" / "weights").iterdir()).write_bytes(b"damaged")
    save(store)
    assert store.weights(saved.id, store.manifest(saved.id)) == WEIGHTS


@pytest.mark.parametrize("identity", ["", "../../etc/passwd", "0" * 63, "G" * 64, "0" * 64 + "/x"])
def test_an_id_can_name_no_file_elsewhere(store: ArtifactStore, identity: str) -> None:
    with pytest.raises(ArtifactCorrupt, match="is no artifact id"):
        store.manifest(identity)


def test_a_format_of_the_future_is_refused_in_words(store: ArtifactStore) -> None:
    text = json.dumps({"format": 2}).encode()
    identity = hashlib.sha256(text).hexdigest()
    store.files.put(f"manifests/{identity}.json", text)
    with pytest.raises(ArtifactCorrupt, match="manifest cannot be read"):
        store.manifest(identity)


def test_a_write_that_fails_leaves_no_name_behind(store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_is_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_is_full)
    with pytest.raises(FileFailure, match="No space"):
        save(store)
    assert files(tmp_path) == []


def test_only_the_owner_can_read_the_files(store: ArtifactStore, tmp_path: Path) -> None:
    save(store)
    assert {stat.S_IMODE(path.stat().st_mode) for path in files(tmp_path)} == {0o600}
    assert stat.S_IMODE((tmp_path / "models" / "weights").stat().st_mode) == 0o700


def test_the_stamp_changes_with_the_files(store: ArtifactStore, tmp_path: Path) -> None:
    saved = save(store)
    before = store.stamp(saved.id)
    assert store.stamp(saved.id) == before
    path = next((tmp_path / "models" / "weights").iterdir())
    path.write_bytes(WEIGHTS + b"!")
    assert store.stamp(saved.id) != before


def test_artifacts_are_listed_with_their_age_and_leftovers_are_swept(store: ArtifactStore, tmp_path: Path) -> None:
    saved = save(store)
    leftover = tmp_path / "models" / "weights" / ".tmp-old"
    leftover.write_bytes(b"half")
    [(identity, changed)] = store.identities()
    assert identity == saved.id
    assert changed == pytest.approx(leftover.stat().st_mtime, abs=5)
    assert isinstance(store.files, Folder)
    store.files.sweep_temporary()
    assert leftover.exists()
    store.files.sweep_temporary(older_than=-1)
    assert not leftover.exists()
    assert len(files(tmp_path)) == 2


def test_a_store_that_cannot_be_written_to_says_so_beforehand(store: ArtifactStore, tmp_path: Path) -> None:
    store.try_out()
    assert files(tmp_path) == []
    assert not (tmp_path / "models").exists()
    (tmp_path / "models").write_text("in the way")
    for attempt in (store.try_out, lambda: save(store)):
        with pytest.raises(FileFailure, match="the weights of the model cannot be written") as problem:
            attempt()
        assert "artifacts.url" in str(problem.value.hint)


def test_a_store_is_a_path_or_a_file_url(tmp_path: Path) -> None:
    saved = save(open_store(str(tmp_path / "a b")))
    assert open_store(f"file://{tmp_path}/a%20b").manifest(saved.id).classes == ["cat", "dog"]


@pytest.mark.parametrize("url", ["s3://bucket/models", "file://host/models", "file://"])
def test_other_stores_are_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match="artifact store"):
        open_store(url)
