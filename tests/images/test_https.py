"""Images behind https:// URLs, from real servers on loopback that do everything a server should not."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.images.site import Page, Site, answer
from tests.session.certificates import Authority, Pair
from thanoproxy.errors import (
    ConfigurationError,
    FeatureNotSupported,
    FileFailure,
    FileUnavailable,
    InsufficientPrivilege,
    InvalidImage,
    ThanoError,
)
from thanoproxy.images import Sources, https, open_sources
from thanoproxy.images.settings import RemoteSettings
from thanoproxy.images.source import MAX_BYTES, shown


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.sign("site", ("localhost", "127.0.0.1", "::1", "photos.example"))


@pytest.fixture
def site(pair: Pair) -> Iterator[Site]:
    with Site(pair=pair) as running:
        yield running


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(https, "PAUSE", 0.01)


@contextmanager
def opened(authority: Authority, *private: str, public: tuple[str, ...] = (), timeout: float = 20, reads: int = 64) -> Iterator[Sources]:
    remote = RemoteSettings(url_hosts=public, private_url_hosts=private, ca=str(authority.file), timeout=timeout, reads=reads)
    sources = open_sources([], remote)
    try:
        yield sources
    finally:
        sources.close()


@pytest.fixture
def sources(authority: Authority, site: Site) -> Iterator[Sources]:
    """Those that may read from `site`."""
    with opened(authority, f"localhost:{site.port}") as found:
        yield found


def url(site: Site, path: str = "/1.png", host: str = "localhost") -> str:
    return f"https://{host}:{site.port}{path}"


# Off unless configured, and only what is named.


def test_off_by_default() -> None:
    with pytest.raises(FeatureNotSupported) as caught:
        open_sources([]).read("https://example.com/1.png?sig=secret")
    assert caught.value.message == 'images cannot be read from "https://example.com/1.png?…"'
    assert "images.url_hosts" in str(caught.value.hint)


def test_an_image_is_read_by_the_name_of_its_host(site: Site, sources: Sources) -> None:
    site.pages["/a/1.png"] = answer(b"pixels")
    assert sources.read(url(site, "/a/1.png?size=2&x=%2F+#part")) == b"pixels"
    (visit,) = site.visits
    assert (visit.target, visit.name) == ("/a/1.png?size=2&x=%2F+", "localhost")
    assert visit.headers["host"] == f"localhost:{site.port}"
    assert visit.headers["accept-encoding"] == "identity"
    assert not {"cookie", "authorization", "referer"} & visit.headers.keys()


def test_characters_that_no_url_has_are_encoded(site: Site, sources: Sources) -> None:
    site.pages["/%C3%BC%20b.png"] = answer(b"pixels")
    assert sources.read(url(site, "/ü b.png")) == b"pixels"


def test_connections_are_used_again(site: Site, sources: Sources) -> None:
    site.pages["/1.png"] = answer(b"pixels")
    assert [sources.read(url(site)) for _ in range(5)] == [b"pixels"] * 5
    assert site.connections == 1


def test_an_image_of_a_url_is_never_taken_for_unchanged(site: Site, sources: Sources) -> None:
    assert sources.identity(url(site)) is None
    assert site.visits == []


REFUSED: list[tuple[str, type[ThanoError], str]] = [
    ("http://localhost:{port}/", FeatureNotSupported, "without encryption"),
    ("https://localhost/", InsufficientPrivilege, "is not allowed"),
    ("https://localhost:1/", InsufficientPrivilege, "is not allowed"),
    ("https://127.0.0.1:{port}/", InsufficientPrivilege, "is not allowed"),
    ("https://localhost.evil.example:{port}/", InsufficientPrivilege, "is not allowed"),
    ("https://evil.example/@localhost:{port}/", InsufficientPrivilege, "is not allowed"),
    ("https://evil.example#@localhost:{port}/", InsufficientPrivilege, "is not allowed"),
    ("https://evil.example?@localhost:{port}/", InsufficientPrivilege, "is not allowed"),
    ("https://user:secret@localhost:{port}/", FeatureNotSupported, "user name or password"),
    ("https://localhost:{port}@evil.example/", FeatureNotSupported, "user name or password"),
    ("https://evil.example\\@localhost:{port}/", InvalidImage, "no good URL"),
    ("https://localhost:{port}\\.evil.example/", InvalidImage, "no good URL"),
    ("https://localhost:0x1/", InvalidImage, "no good URL"),
    ("https://localhost:99999/", InvalidImage, "no good URL"),
    ("https://localhost:-1/", InvalidImage, "no good URL"),
    ("https://:{port}/", InvalidImage, "no good URL"),
    ("https:///1.png", InvalidImage, "no good URL"),
    ("https://[::1/", InvalidImage, "no good URL"),
    ("https://local host:{port}/", InvalidImage, "no good URL"),
    ("https://localhost\r\nX: y:{port}/", InvalidImage, "no good URL"),
    ("https://%6cocalhost:{port}/", InvalidImage, "no good URL"),
]


@pytest.mark.parametrize(("text", "error", "message"), REFUSED)
def test_what_is_not_named_is_not_asked(site: Site, sources: Sources, text: str, error: type[ThanoError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        sources.read(text.format(port=site.port))
    assert type(caught.value) is error
    assert "secret" not in caught.value.message
    assert site.connections == 0


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::]",
        "[64:ff9b::7f00:1]",
        "[fd00:ec2::254]",
        "localhost",
        "no-such-host.invalid",
    ],
)
def test_only_addresses_of_the_internet(authority: Authority, site: Site, host: str) -> None:
    """What leads into a private network and what leads nowhere are one error."""
    with opened(authority, public=(f"*:{site.port}",)) as sources, pytest.raises(InsufficientPrivilege) as caught:
        sources.read(url(site, host=host))
    assert caught.value.message == f"image {shown(url(site, host=host))} may not be read: its host has no address of the internet"
    assert site.connections == 0


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1", "127.0.0.1.", "localhost.", "①②⑦.0.0.1"])
def test_other_spellings_of_an_address_are_no_hosts(authority: Authority, site: Site, host: str) -> None:
    with opened(authority, public=(f"*:{site.port}",)) as sources, pytest.raises((InvalidImage, InsufficientPrivilege)):
        sources.read(url(site, host=host))
    assert site.connections == 0


def test_ipv6(authority: Authority, pair: Pair) -> None:
    try:
        running = Site("::1", pair)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with running as site, opened(authority, f"[::1]:{site.port}") as sources:
        site.pages["/1.png"] = answer(b"pixels")
        assert sources.read(url(site, host="[::1]")) == b"pixels"
        assert sources.read(url(site, host="[0:0::0:1]")) == b"pixels"


# Names and their addresses.


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Answers of a name server, one list of addresses after the other; returns the names that were asked for."""

    def follow(*answers: list[str]) -> list[str]:
        asked: list[str] = []

        async def look_up(host: str, port: int, family: int) -> list[tuple[socket.AddressFamily, str]]:
            asked.append(host)
            found = answers[min(len(asked), len(answers)) - 1]
            return [(socket.AF_INET6 if ":" in address else socket.AF_INET, address) for address in found]

        monkeypatch.setattr(https, "look_up", look_up)
        return asked

    return follow


def test_the_connection_goes_to_the_address_that_was_checked(
    authority: Authority, pair: Pair, site: Site, names: Callable[..., list[str]]
) -> None:
    """The name has another address as soon as it was looked up."""
    asked = names(["127.0.0.1"], ["127.0.0.2"])
    site.pages["/1.png"] = answer(b"pixels")
    with opened(authority, f"photos.example:{site.port}") as sources:
        assert sources.read(url(site, host="photos.example")) == b"pixels"
    assert asked == ["photos.example"]
    assert [(visit.name, visit.headers["host"]) for visit in site.visits] == [("photos.example", f"photos.example:{site.port}")]


@pytest.mark.parametrize(
    "answers", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["::ffff:127.0.0.1"], ["169.254.169.254"], ["fe80::1%2"]]
)
def test_every_address_of_a_name_is_checked(authority: Authority, site: Site, names: Callable[..., list[str]], answers: list[str]) -> None:
    names(answers)
    public, message = (f"photos.example:{site.port}",), "no address of the internet"
    with opened(authority, public=public) as sources, pytest.raises(InsufficientPrivilege, match=message):
        sources.read(url(site, host="photos.example"))
    assert site.connections == 0


def test_a_name_is_checked_again_when_it_is_looked_up_again(
    authority: Authority, site: Site, names: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https, "DNS_SECONDS", 0)
    asked = names(["127.0.0.1"], ["169.254.169.254"])
    site.pages["/1.png"] = answer(b"pixels", Connection="close")
    with opened(authority, f"photos.example:{site.port}") as sources:
        assert sources.read(url(site, host="photos.example")) == b"pixels"
        with pytest.raises(InsufficientPrivilege):
            sources.read(url(site, host="photos.example"))
    assert len(asked) == 2


def test_the_certificate_must_be_of_the_host(authority: Authority, names: Callable[..., list[str]], tmp_path: Path) -> None:
    names(["127.0.0.1"])
    stranger = Authority(tmp_path, "stranger").sign("site", ("photos.example",))
    for pair in (authority.sign("other", ("other.example",)), authority.sign("old", ("photos.example",), days=-1), stranger):
        with Site(pair=pair) as site, opened(authority, f"photos.example:{site.port}") as sources:
            with pytest.raises(FileFailure, match="the certificate of its server is not good"):
                sources.read(url(site, host="photos.example"))
            assert site.visits == []


# Redirects.


@pytest.mark.parametrize("location", ["/2.png", "2.png?x", "//localhost:{port}/2.png", "https://localhost:{port}/2.png"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(site: Site, sources: Sources, location: str, status: int) -> None:
    site.pages["/1.png"] = answer(status=status, Location=location.format(port=site.port))
    site.pages["/2.png"] = answer(b"pixels")
    assert sources.read(url(site)) == b"pixels"


@pytest.mark.parametrize(
    ("location", "error"),
    [
        ("https://localhost/secret", InsufficientPrivilege),
        ("https://169.254.169.254/secret", InsufficientPrivilege),
        ("https://127.0.0.1:{port}/secret", InsufficientPrivilege),
        ("//evil.example/secret", InsufficientPrivilege),
        ("http://localhost:{port}/secret", FeatureNotSupported),
        ("file:///etc/secret", FeatureNotSupported),
        ("ftp://localhost/secret", FeatureNotSupported),
        ("https://u:secret@localhost:{port}/secret", FeatureNotSupported),
        ("https://[secret/", InvalidImage),
    ],
)
def test_a_redirect_is_checked_as_the_url_was(site: Site, sources: Sources, location: str, error: type[ThanoError]) -> None:
    site.pages["/1.png"] = answer(status=302, Location=location.format(port=site.port))
    with pytest.raises(error) as caught:
        sources.read(url(site))
    assert shown(url(site)) in caught.value.message
    assert "secret" not in f"{caught.value.message} {caught.value.detail} {caught.value.hint}"
    assert site.paths == ["/1.png"]


def test_a_redirect_to_a_name_in_a_private_network_is_refused(authority: Authority, site: Site, names: Callable[..., list[str]]) -> None:
    names(["127.0.0.1"], ["127.0.0.1"])
    with opened(authority, f"localhost:{site.port}", public=(f"*.example:{site.port}",)) as sources:
        site.pages["/1.png"] = answer(status=302, Location=f"https://inside.example:{site.port}/2.png")
        with pytest.raises(InsufficientPrivilege, match="no address of the internet"):
            sources.read(url(site))
    assert site.paths == ["/1.png"]


def test_redirects_end(site: Site, sources: Sources) -> None:
    site.pages["/1.png"] = answer(status=302, Location="/1.png")
    with pytest.raises(FileFailure, match="redirected more than 5 times"):
        sources.read(url(site))
    assert len(site.visits) == 6


# What a server may do.


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_missing_and_forbidden_are_one_error(site: Site, sources: Sources, status: int) -> None:
    site.pages["/1.png"] = answer(b"secret", status)
    with pytest.raises(FileUnavailable) as caught:
        sources.read(url(site, "/1.png?sig=secret"))
    assert caught.value.message == f'image "{url(site)}?…" is not available'
    assert (caught.value.detail, caught.value.hint) == (None, None)
    assert len(site.visits) == 1


def reset(connection: socket.socket) -> None:
    raise ConnectionResetError


def stop_in_the_middle(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 -\r\nContent-Length: 100\r\n\r\npix")
    raise ConnectionResetError


@pytest.mark.parametrize("page", [answer(status=500), answer(status=503), answer(status=429), reset, stop_in_the_middle])
def test_what_may_pass_is_tried_again(site: Site, sources: Sources, page: Page) -> None:
    site.pages["/1.png"] = [page, page, answer(b"pixels")]
    assert sources.read(url(site)) == b"pixels"
    site.pages["/1.png"] = page
    site.visits.clear()
    with pytest.raises(FileFailure, match="could not be read: its server"):
        sources.read(url(site))
    # A connection that was kept and is closed when it is used again is no attempt.
    assert https.ATTEMPTS <= len(site.visits) <= 2 * https.ATTEMPTS


def test_nobody_there(authority: Authority, site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with opened(authority, f"localhost:{port}") as sources, pytest.raises(FileFailure, match="its server cannot be reached"):
        sources.read(f"https://localhost:{port}/1.png")


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 -\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"100000\r\n" + b"x" * 0x100000 + b"\r\n")


def lying(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 -\r\nContent-Length: %d\r\n\r\n" % (MAX_BYTES + 1))
    time.sleep(30)


@pytest.mark.parametrize("page", [endless, lying])
def test_too_large_is_noticed_before_it_is_read(site: Site, sources: Sources, page: Page) -> None:
    site.pages["/1.png"] = page
    with pytest.raises(InvalidImage, match="is larger than 64 MB"):
        sources.read(url(site))
    assert len(site.visits) == 1


def test_more_than_was_promised_is_not_read(site: Site, sources: Sources) -> None:
    def page(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 -\r\nContent-Length: 6\r\n\r\npixels and more")

    site.pages["/1.png"] = page
    with pytest.raises(FileFailure, match="does not answer as HTTP prescribes"):
        sources.read(url(site))


def drip(connection: socket.socket) -> None:
    for byte in b"HTTP/1.1 200 -\r\n" + b"X: y\r\n" * 1000:
        connection.sendall(bytes([byte]))
        time.sleep(0.02)


def drip_body(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 -\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        connection.sendall(b"x")
        time.sleep(0.02)


def silence(connection: socket.socket) -> None:
    time.sleep(30)


@pytest.mark.parametrize("page", [drip, drip_body, silence])
def test_the_time_is_that_of_the_whole_image(authority: Authority, site: Site, page: Page) -> None:
    site.pages["/1.png"] = page
    with opened(authority, f"localhost:{site.port}", timeout=0.3) as sources:
        begun = time.monotonic()
        with pytest.raises(FileFailure, match=r"did not arrive within 0\.3 seconds") as caught:
            sources.read(url(site))
        assert time.monotonic() - begun < 2
    assert "images.remote_timeout" in str(caught.value.hint)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 -\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 -\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        b"SSH-2.0-OpenSSH_9.9 secret\r\n",
        b"HTTP/1.1 200 -\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 -\r\nContent-Length: secret\r\n\r\n",
    ],
)
def test_what_is_not_http_or_far_too_much_of_it(site: Site, sources: Sources, head: bytes) -> None:
    def page(connection: socket.socket) -> None:
        connection.sendall(head)
        raise ConnectionResetError

    site.pages["/1.png"] = page
    with pytest.raises(FileFailure, match="could not be read") as caught:
        sources.read(url(site))
    assert "secret" not in f"{caught.value.message} {caught.value.detail}"


def test_no_encoding_is_undone(site: Site, sources: Sources) -> None:
    site.pages["/1.png"] = answer(b"\x1f\x8b small", Content_Encoding="gzip")
    assert sources.read(url(site)) == b"\x1f\x8b small"


def test_no_proxy_and_no_cookies(site: Site, sources: Sources, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    (tmp_path / "netrc").write_text("machine localhost login u password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    site.pages["/1.png"] = answer(b"pixels", Set_Cookie="a=b")
    assert [sources.read(url(site)) for _ in range(2)] == [b"pixels"] * 2
    assert not any({"cookie", "authorization"} & visit.headers.keys() for visit in site.visits)


# Many at once.


def test_reads_wait_at_the_same_time_but_one_host_does_not_have_them_all(authority: Authority, site: Site, pair: Pair) -> None:
    gate = threading.Event()

    def stuck(connection: socket.socket) -> None:
        gate.wait(20)
        answer(b"late")(connection)

    with Site(pair=pair) as other, opened(authority, f"localhost:{site.port}", f"localhost:{other.port}", reads=8) as sources:
        site.pages["/1.png"], other.pages["/1.png"] = stuck, answer(b"pixels")
        with ExitStack() as at_end:
            at_end.callback(gate.set)
            threads = [threading.Thread(target=sources.read, args=(url(site),)) for _ in range(20)]
            for thread in threads:
                thread.start()
            assert sources.read(url(other)) == b"pixels"
            deadline = time.monotonic() + 10
            while len(site.visits) < 6 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert len(site.visits) == 6
        for thread in threads:
            thread.join()
    assert len(site.visits) == 20


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    for file in (tmp_path / "missing.pem", tmp_path):
        with pytest.raises(ConfigurationError, match=r"images\.ca: .* cannot be used"):
            open_sources([], RemoteSettings(url_hosts=("example.com",), ca=str(file)))
