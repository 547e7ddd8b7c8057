"""What `thanoproxy check` says of hosts and stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.images.site import Site, answer
from thanoproxy.images.examine import examine
from thanoproxy.images.settings import RemoteSettings, StoreSettings


def test_hosts_are_looked_up_and_their_addresses_checked() -> None:
    remote = RemoteSettings(
        url_hosts=("*.example", "8.8.8.8", "localhost:8443", "no-such-host.invalid"), private_url_hosts=("127.0.0.1:9",)
    )
    public, inside, missing, private = examine(remote)
    assert public == ("ok", "images.url_hosts: 8.8.8.8 is at 8.8.8.8")
    assert inside[0] == "FAIL"
    assert inside[1].startswith("images.url_hosts: localhost:8443 has an address that may not be used (")
    assert missing == ("FAIL", "images.url_hosts: no-such-host.invalid has no address")
    assert private == ("ok", "images.private_url_hosts: 127.0.0.1:9 is at 127.0.0.1")


@pytest.mark.parametrize(
    ("status", "verdict", "text"),
    [
        (404, "ok", "answers"),
        (403, "note", "answers that we may not see what is in it"),
        (418, "FAIL", "does not answer as a store should"),
    ],
)
def test_stores_are_asked(status: int, verdict: str, text: str) -> None:
    with Site() as site:
        site.pages["/photos/cats/.thanoproxy-check"] = answer(status=status)
        endpoint = f"http://127.0.0.1:{site.port}"
        store = StoreSettings(scheme="s3", bucket="photos", prefix="cats", endpoint=endpoint, region="r", credentials="anonymous")
        ((found, said),) = examine(RemoteSettings(stores=(store,)))
        assert site.paths == ["/photos/cats/.thanoproxy-check"]
    assert found == verdict
    assert said.startswith(f"images.stores: s3://photos/cats {text}")


def test_a_store_that_cannot_be_opened(tmp_path: Path) -> None:
    ((found, said),) = examine(RemoteSettings(stores=(StoreSettings(scheme="s3", bucket="b", credentials=str(tmp_path / "none")),)))
    assert (found, said) == ("FAIL", f"images.stores: the credentials of s3://b: {tmp_path}/none cannot be read: No such file or directory")


def test_nothing_configured_is_nothing_to_say() -> None:
    assert examine(RemoteSettings()) == []
