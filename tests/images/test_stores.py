"""Images in object stores, from servers on loopback that speak as much of each as reading needs."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.images.site import Page, Site, answer
from thanoproxy.errors import ConfigurationError, FeatureNotSupported, FileFailure, FileUnavailable, InsufficientPrivilege, InvalidImage
from thanoproxy.images import Sources, open_sources
from thanoproxy.images.settings import RemoteSettings, StoreSettings
from thanoproxy.images.source import MAX_BYTES

MODIFIED = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that are found are those of these tests."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FROM-ENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "Z2VoZWlt")


@contextmanager
def opened(*stores: StoreSettings, timeout: float = 10) -> Iterator[Sources]:
    sources = open_sources([], RemoteSettings(stores=stores, timeout=timeout))
    try:
        yield sources
    finally:
        sources.close()


def bucket(site: Site, scheme: str = "s3", prefix: str = "", credentials: str = "environment") -> StoreSettings:
    place = {"s3": {"region": "eu-central-1"}, "gs": {}, "az": {"account": "account"}}[scheme]
    endpoint = f"http://127.0.0.1:{site.port}"
    return StoreSettings(scheme=scheme, bucket="photos", prefix=prefix, endpoint=endpoint, credentials=credentials, **place)


def stored(data: bytes) -> Page:
    return answer(data, ETag='"1"', Last_Modified=MODIFIED)


def test_off_by_default() -> None:
    for scheme in ("s3", "gs", "az", "S3"):
        with pytest.raises(FeatureNotSupported, match="cannot be read from") as caught:
            open_sources([]).read(f"{scheme}://photos/1.png")
        assert "images.stores" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("scheme", "path"),
    [("s3", "/photos/cats/1.png"), ("gs", "/photos/cats%2F1%2Epng"), ("az", "/photos/cats/1.png")],
    ids=["s3", "gs", "az"],
)
def test_an_object_is_read(site: Site, scheme: str, path: str) -> None:
    site.pages[path] = stored(b"pixels")
    with opened(bucket(site, scheme, credentials="anonymous")) as sources:
        assert sources.read(f"{scheme}://photos/cats/1.png") == b"pixels"
        assert sources.read(f"{scheme.upper()}://photos/cats/1.png") == b"pixels"
        assert sources.identity(f"{scheme}://photos/cats/1.png") is None
    assert site.paths == [path, path]
    assert not any("authorization" in visit.headers for visit in site.visits)


def test_credentials_of_the_environment_and_of_a_file(site: Site, tmp_path: Path) -> None:
    site.pages["/photos/1.png"] = stored(b"pixels")
    with opened(bucket(site)) as sources:
        assert sources.read("s3://photos/1.png") == b"pixels"
    file = tmp_path / "minio.toml"
    file.write_text('access_key_id = "FROM-FILE"\nsecret_access_key = "geheim"')
    with opened(bucket(site, credentials=str(file))) as sources:
        assert sources.read("s3://photos/1.png") == b"pixels"
    signed = [visit.headers["authorization"] for visit in site.visits]
    assert ["FROM-ENVIRONMENT/" in signed[0], "FROM-FILE/" in signed[1]] == [True, True]
    assert all(one.startswith("AWS4-HMAC-SHA256 ") and "/eu-central-1/s3/" in one for one in signed)


def test_a_key_is_taken_as_it_stands(site: Site) -> None:
    site.pages["/photos/a%20b%2520c%3Fd%23%C3%BC.png"] = stored(b"pixels")
    with opened(bucket(site)) as sources:
        assert sources.read("s3://photos/a b%20c?d#ü.png") == b"pixels"


@pytest.mark.parametrize(
    "image", ["s3://other/1.png", "s3://photos/1.png", "s3://photos/catsand/1.png", "s3://photos/cats", "gs://photos/cats/1.png", "s3://"]
)
def test_only_what_is_named(site: Site, image: str) -> None:
    with opened(bucket(site, prefix="cats")) as sources, pytest.raises(InsufficientPrivilege, match="is not allowed"):
        sources.read(image)
    assert site.connections == 0


@pytest.mark.parametrize("key", ["cats/../secret.png", "cats/./1.png", "cats//../1.png", "cats/", "cats/..", "cats/\n"])
def test_no_key_leads_out_of_a_prefix(site: Site, key: str) -> None:
    with opened(bucket(site, prefix="cats")) as sources, pytest.raises(FileUnavailable):
        sources.read(f"s3://photos/{key}")
    assert {"/photos/secret.png"}.isdisjoint(site.paths)


def test_the_longest_prefix_says_where(site: Site) -> None:
    site.pages["/photos/cats/1.png"] = stored(b"pixels")
    elsewhere = StoreSettings(scheme="s3", bucket="photos", endpoint="http://127.0.0.1:1", region="r")
    with opened(elsewhere, bucket(site, prefix="cats")) as sources:
        assert sources.read("s3://photos/cats/1.png") == b"pixels"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_missing_and_forbidden_are_one_error(site: Site, status: int) -> None:
    site.pages["/photos/1.png"] = answer(b"<Code>geheim</Code>", status)
    with opened(bucket(site)) as sources, pytest.raises(FileUnavailable) as caught:
        sources.read("s3://photos/1.png")
    assert caught.value.message == 'image "s3://photos/1.png" is not available'
    assert (caught.value.detail, caught.value.hint) == (None, None)


def test_what_may_pass_is_tried_again(site: Site) -> None:
    site.pages["/photos/1.png"] = [answer(status=503), answer(status=500), stored(b"pixels")]
    with opened(bucket(site)) as sources:
        assert sources.read("s3://photos/1.png") == b"pixels"
        site.pages["/photos/1.png"] = answer(b"geheim", 503)
        with pytest.raises(FileFailure, match="the store does not answer as it should") as caught:
            sources.read("s3://photos/1.png")
    assert "geheim" not in f"{caught.value.message} {caught.value.detail}"
    assert "127.0.0.1" not in f"{caught.value.message} {caught.value.detail}"


def large(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 -\r\nETag: x\r\nLast-Modified: %s\r\nContent-Length: %d\r\n\r\n" % (MODIFIED.encode(), MAX_BYTES + 1))
    time.sleep(20)


def test_too_large_is_noticed_before_it_is_read(site: Site) -> None:
    site.pages["/photos/1.png"] = large
    with opened(bucket(site)) as sources, pytest.raises(InvalidImage, match="is larger than 64 MB"):
        sources.read("s3://photos/1.png")


def drip(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 -\r\nETag: x\r\nLast-Modified: %s\r\nContent-Length: 1000\r\n\r\n" % MODIFIED.encode())
    for _ in range(1000):
        connection.sendall(b"x")
        time.sleep(0.02)


@pytest.mark.parametrize("page", [drip, lambda connection: time.sleep(20)], ids=["drip", "silence"])
def test_the_time_is_that_of_the_whole_image(site: Site, page: Page) -> None:
    site.pages["/photos/1.png"] = page
    begun = time.monotonic()
    with opened(bucket(site), timeout=0.4) as sources, pytest.raises(FileFailure, match="did not arrive within"):
        sources.read("s3://photos/1.png")
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize(
    ("scheme", "text", "message"),
    [
        ("s3", None, "cannot be read: No such file or directory"),
        ("s3", 'access_key_id = "geheim', "are not valid TOML"),
        ("s3", 'secret = "geheim"', "should be of access_key_id, secret_access_key, session_token"),
        ("s3", "", "should be of access_key_id"),
        ("gs", json.dumps({"private_key": "geheim"}), "cannot be used as it is configured"),
    ],
)
def test_a_wrong_file_of_credentials_is_one_line_without_them(
    site: Site, tmp_path: Path, scheme: str, text: str | None, message: str
) -> None:
    file = tmp_path / "credentials"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        open_sources([], RemoteSettings(stores=(bucket(site, scheme, credentials=str(file)),)))
    assert "geheim" not in str(caught.value)
    assert "\n" not in str(caught.value)
