"""Which hosts and addresses are good: the rules alone, without a network."""

from __future__ import annotations

import pytest

from thanoproxy.images.hosts import Hosts, is_global, is_host


@pytest.mark.parametrize("address", ["8.8.8.8", "193.0.6.139", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_internet(address: str) -> None:
    assert is_global(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "0.1.2.3",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.0.0.192",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "168.63.129.16",
        "224.0.0.1",
        "224.0.1.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::808:808",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "2002:7f00:1::",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%2",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "localhost",
        "",
    ],
)
def test_all_others_are_none(address: str) -> None:
    assert not is_global(address)


@pytest.mark.parametrize("host", ["example.com", "a", "xn--bcher-kva.example", "a_b.example", "8.8.8.8", "::1", "1.example"])
def test_hosts(host: str) -> None:
    assert is_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "127.0.0.1.",
        "127.0.0.256",
        "example.0x1",
        "example.com.",
        "a..b",
        "-a",
        "a b",
        "a%2e",
        "a\\b",
        "a\0",
        "",
        "x" * 64,
        "1:2",
    ],
)
def test_what_only_a_resolver_takes_for_an_address_is_no_host(host: str) -> None:
    assert not is_host(host)


HOSTS = Hosts(["Cdn.example.com", "*.photos.example", "api.example:8443", "[2001:4860::1]", "8.8.8.8:444"], ["minio.lan:9000", "[::1]:9"])


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("cdn.example.com", 443),
        ("a.photos.example", 443),
        ("a.b.photos.example", 443),
        ("api.example", 8443),
        ("2001:4860::1", 443),
        ("8.8.8.8", 444),
        ("minio.lan", 9000),
        ("::1", 9),
    ],
)
def test_what_the_list_has(host: str, port: int) -> None:
    assert HOSTS.admits(host, port)


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("example.com", 443),
        ("x.cdn.example.com", 443),
        ("cdn.example.com.evil.example", 443),
        ("photos.example", 443),
        ("evilphotos.example", 443),
        ("api.example", 443),
        ("cdn.example.com", 8443),
        ("cdn.example.com", 80),
        ("8.8.8.8", 443),
        ("minio.lan", 443),
        ("minio.lan", 9001),
    ],
)
def test_what_it_has_not(host: str, port: int) -> None:
    assert not HOSTS.admits(host, port)


def test_a_star_is_every_host_with_one_port() -> None:
    hosts = Hosts(["*", "*:8443"], [])
    assert all(hosts.admits(host, port) for host in ("a.example", "8.8.8.8", "::1") for port in (443, 8443))
    assert not hosts.admits("a.example", 80)
    assert not hosts.admits_address("a.example", 443, "127.0.0.1")


def test_only_a_private_host_may_lie_in_a_private_network() -> None:
    for address in ("10.0.0.7", "127.0.0.1", "::1", "fd12::1", "::ffff:10.0.0.7", "100.64.0.1", "8.8.8.8"):
        assert HOSTS.admits_address("minio.lan", 9000, address)
    for address in ("10.0.0.7", "::1", "fd12::1"):
        assert not HOSTS.admits_address("minio.lan", 443, address)
        assert not HOSTS.admits_address("cdn.example.com", 443, address)


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "100.100.100.200", "fe80::1", "0.0.0.0", "::", "224.0.0.1"]
)
def test_not_even_a_private_host_may_have_an_address_that_is_no_server_of_anybody(address: str) -> None:
    assert not HOSTS.admits_address("minio.lan", 9000, address)


def test_no_list_is_nothing() -> None:
    assert not Hosts([], [])
    assert not Hosts([], []).admits("example.com", 443)
