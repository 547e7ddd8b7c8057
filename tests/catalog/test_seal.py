from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from tests.catalog.conftest import make_record
from thanoproxy.catalog.seal import KEY_FILE, Seal, open_seal, sealed_bytes
from thanoproxy.errors import ConfigurationError, InsufficientPrivilege


def test_a_signed_record_verifies() -> None:
    seal = Seal(b"k" * 32)
    seal.verify(seal.sign(make_record()))


@pytest.mark.parametrize("change", [{"name": "pets2"}, {"version": 2}, {"owner": "eve"}, {"artifact": "cd" * 32}, {"mac": b""}])
def test_a_changed_record_does_not(change: dict[str, object]) -> None:
    seal = Seal(b"k" * 32)
    with pytest.raises(InsufficientPrivilege, match="seal"):
        seal.verify(msgspec.structs.replace(seal.sign(make_record()), **change))


def test_another_key_does_not_verify() -> None:
    with pytest.raises(InsufficientPrivilege):
        Seal(b"a" * 32).verify(Seal(b"b" * 32).sign(make_record()))


def test_parts_cannot_run_into_each_other() -> None:
    assert sealed_bytes("a", "bc", 1, "x") != sealed_bytes("ab", "c", 1, "x")
    assert sealed_bytes("a", "b1", 1, "x") != sealed_bytes("a", "b", 11, "x")


def test_the_key_is_made_once_even_by_many(tmp_path: Path) -> None:
    folder = tmp_path / "artifacts"
    with ThreadPoolExecutor(8) as threads:
        seals = list(threads.map(open_seal, [folder] * 32))
    signed = {seal.sign(make_record()).mac for seal in seals}
    assert len(signed) == 1
    assert (folder / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert os.listdir(folder) == [KEY_FILE]


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    open_seal(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        open_seal(tmp_path)


def test_a_damaged_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_bytes(b"short")
    with pytest.raises(ConfigurationError, match="32 bytes"):
        open_seal(tmp_path)


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"artifacts\.url"):
        open_seal(tmp_path / "file" / "artifacts")
