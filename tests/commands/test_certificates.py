"""What `thanoproxy check` says of certificates, before clients do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.session.certificates import Authority
from thanoproxy.commands.certificates import examine_certificates
from thanoproxy.config import load


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def clients(**tls: object) -> list[str]:
    """What is said of section [tls]."""
    return said(tls={"mode": "prefer", **tls}, upstream={"url": "postgresql://h/d?sslmode=disable"})


def upstream(parameters: str) -> list[str]:
    """What is said of the upstream URL."""
    return said(upstream={"url": f"postgresql://h/d?{parameters}"})


def said(**sections: dict[str, Any]) -> list[str]:
    return [" ".join(str(finding).split()) for finding in examine_certificates(load(flags=sections))]


def test_without_tls_nothing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert said(upstream={"url": "postgresql://h/d"}) == []
    assert said(upstream={"url": "postgresql://%2Frun/d?sslmode=verify-full&sslrootcert=/none"}) == []
    assert said(upstream={"embedded": tmp_path}) == []


def test_what_is_good(authority: Authority) -> None:
    pair = authority.sign("good")
    first, second = clients(certificate=pair.certificate, key=pair.key, client_ca=authority.file)
    assert first.startswith(f"ok tls tls.certificate: {pair.certificate}: CN=good until 20")
    assert second.startswith(f"ok tls tls.client_ca: {authority.file}: CN=authority until 20")


@pytest.mark.parametrize(
    ("days", "verdict", "words"), [(29, "note", "expires soon, on 20"), (31, "ok", "until 20"), (-0.5, "FAIL", "has expired on 20")]
)
def test_time(authority: Authority, days: float, verdict: str, words: str) -> None:
    pair = authority.sign("timed", days=days)
    for line in (*clients(certificate=pair.certificate, key=pair.key), *upstream(f"sslcert={pair.certificate}&sslkey={pair.key}")):
        assert line.startswith(verdict)
        assert f"cert: {pair.certificate}: CN=timed " in line or f"certificate: {pair.certificate}: CN=timed " in line
        assert words in line


def test_each_of_a_chain_is_looked_at(authority: Authority, tmp_path: Path) -> None:
    pair, old = authority.sign("leaf"), authority.sign("between", days=-1)
    chain = tmp_path / "chain.crt"
    chain.write_bytes(pair.certificate.read_bytes() + old.certificate.read_bytes())
    assert [line.split()[0] for line in clients(certificate=chain, key=pair.key)] == ["ok", "FAIL"]


def test_a_bundle_may_hold_old_authorities(authority: Authority, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.crt"
    bundle.write_bytes(authority.sign("old", days=-1).certificate.read_bytes() + authority.file.read_bytes())
    (line,) = upstream(f"sslmode=verify-ca&sslrootcert={bundle}")
    assert line.startswith(f"ok tls sslrootcert: {bundle}: 2 authorities, of which CN=authority until 20")


def test_a_key_of_another_certificate(authority: Authority) -> None:
    one, other = authority.sign("one"), authority.sign("other")
    (line,) = clients(certificate=one.certificate, key=other.key)
    assert line.startswith(f"FAIL tls tls.certificate: cannot use {one.certificate} with key {other.key}: ")
    assert "key values mismatch" in line.lower().replace("_", " ")


def test_files_that_are_not_there(authority: Authority, tmp_path: Path) -> None:
    pair, none = authority.sign("good"), tmp_path / "none"
    assert clients(certificate=none, key=pair.key) == [
        f"FAIL tls tls.certificate: cannot use {none} with key {pair.key}: No such file or directory"
    ]
    assert clients(certificate=pair.certificate, key=pair.key, client_ca=none) == [
        f"FAIL tls tls.client_ca: cannot use {none}: No such file or directory"
    ]
    assert upstream(f"sslmode=verify-full&sslrootcert={none}") == [
        f"FAIL tls upstream.url: sslrootcert: cannot use {none}: No such file or directory"
    ]


def test_one_leg_that_is_wrong_does_not_hide_the_other(authority: Authority, tmp_path: Path) -> None:
    section = {"mode": "prefer", "certificate": tmp_path / "none"}
    lines = said(tls=section, upstream={"url": f"postgresql://h/d?sslmode=verify-full&sslrootcert={authority.file}"})
    assert [line.split()[0] for line in lines] == ["FAIL", "ok", "note"]


@pytest.mark.parametrize(
    ("mode", "parameters", "told"),
    [("relay", "", True), ("relay", "?sslmode=require", True), ("relay", "?sslmode=disable", False), ("scram", "?sslmode=require", False)],
)
def test_scram_between_two_encrypted_legs(authority: Authority, mode: str, parameters: str, told: bool) -> None:
    pair = authority.sign("good")
    tls = {"mode": "prefer", "certificate": pair.certificate, "key": pair.key}
    lines = said(tls=tls, auth={"mode": mode}, upstream={"url": f"postgresql://h/d{parameters}"})
    assert ["set auth.mode = scram" in line for line in lines] == [False] + [True] * told


def test_lists_of_revoked_certificates(authority: Authority) -> None:
    url = f"sslmode=verify-full&sslrootcert={authority.file}&sslcrl={{}}"
    for days, words in ((7, "ok tls sslcrl: {}: until 20"), (-1, "FAIL tls sslcrl: {}: should have been replaced on 20")):
        file = authority.revoke(days=days)
        assert upstream(url.format(file))[1].startswith(words.format(file))


def test_what_lies_where_libpq_looks(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".postgresql").mkdir()
    shutil.copy(authority.file, tmp_path / ".postgresql" / "root.crt")
    assert upstream("sslmode=prefer") == []
    (line,) = upstream("sslmode=require")
    assert line.startswith(f"ok tls sslrootcert: {tmp_path}/.postgresql/root.crt: ")
    assert upstream("sslrootcert=system") == ["ok tls sslrootcert: what the system trusts"]
