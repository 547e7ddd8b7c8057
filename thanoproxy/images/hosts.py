"""Which hosts, ports and addresses may be connected to for an image.

A URL comes out of a table, so whoever may write a row would otherwise choose whom this machine talks to, behind every firewall that it
stands behind.  So a host has to be named by the operator, and its address has to be one of the internet, unless the operator has named
this very host and port as one that may lie in a private network.  Even then some addresses are never used: those where a cloud
tells a machine its own credentials.

`ipaddress.is_global` follows the registries of IANA (RFC 6890), but newer ones only in newer versions of Python, takes multicast for
global, and does not look inside of addresses that carry an IPv4 address; so the tables below are asked first.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

__all__ = ["DEFAULT_PORT", "Hosts", "is_address", "is_global", "is_host", "split_host"]

DEFAULT_PORT = 443

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NOT_GLOBAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        "100.64.0.0/10",  # shared by carriers (RFC 6598)
        "192.0.0.0/24",  # protocol assignments, and metadata of a cloud (192.0.0.192)
        "192.88.99.0/24",  # 6to4 relays, deprecated (RFC 7526)
        "240.0.0.0/4",  # reserved
        "::/96",  # an IPv4 address in an old form (RFC 4291, 2.5.5.1)
        "64:ff9b:1::/48",  # translation within a network (RFC 8215)
        "2001::/32",  # Teredo, which tunnels to an IPv4 address
        "2002::/16",  # 6to4, the same
        "3fff::/20",  # documentation (RFC 9637)
        "5f00::/16",  # segment routing (RFC 9602)
        "fec0::/10",  # site-local, deprecated (RFC 3879)
    )
)
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")  # the IPv4 address is in the last 32 bits (RFC 6052)
_METADATA = frozenset(map(ipaddress.ip_address, ("100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254")))

_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def is_host(host: str) -> bool:
    """Whether `host`, in lower case, is a name or an address in its one usual form; 127.1 and 0x7f000001 are neither."""
    if is_address(host):
        return True
    return len(host) <= 253 and _NAME.fullmatch(host) is not None and _NUMBER.fullmatch(host.rpartition(".")[2]) is None


def is_address(host: str) -> bool:
    """Whether `host` is an address and no name."""
    return _address(host) is not None


def is_global(address: str) -> bool:
    """Whether an address, as text, is one of the internet, and so is the IPv4 address that it may carry."""
    found = _address(address)
    return found is not None and _is_global(found)


class Hosts:
    """The operator's list.  `public`: names, `*.` before a name for all below it, or `*` for every host; a port behind a colon in place of
    443.  `private`: the same without `*`, for hosts whose address need not be global."""

    def __init__(self, public: Sequence[str], private: Sequence[str]) -> None:
        self._public = frozenset(map(split_host, public))
        self._private = frozenset(map(split_host, private))

    def __bool__(self) -> bool:
        return bool(self._public or self._private)

    def admits(self, host: str, port: int) -> bool:
        """Whether the list has this host with this port."""
        above = [] if is_address(host) else host.split(".")[1:]
        forms = [host, *("*." + ".".join(above[at:]) for at in range(len(above))), "*"]
        return (host, port) in self._private or any((form, port) in self._public for form in forms)

    def admits_address(self, host: str, port: int, address: str) -> bool:
        """Whether a connection for this host and port may go to this address."""
        found = _address(address)
        if found is None:
            return False
        return _is_global(found) or ((host, port) in self._private and not _is_forbidden(found))


def split_host(entry: str) -> tuple[str, int]:
    """Host and port of an entry in such a list."""
    host, colon, port = entry.lower().rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):  # no port, which a bare IPv6 address cannot have
        host, port = entry.lower(), str(DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    address = _address(host)
    return host if address is None else str(address), int(port)


def _address(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _carried(address: _Address) -> _Address:
    """The address that packets to `address` end at: an IPv4 address may come as IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _TRANSLATED:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_global(address: _Address) -> bool:
    end = _carried(address)
    if end in _METADATA or end.is_multicast or any(end in network for network in _NOT_GLOBAL):
        return False
    return end.is_global


def _is_forbidden(address: _Address) -> bool:
    """Whether no setting makes it good: nobody's own server has such an address."""
    end = _carried(address)
    reserved = end.is_reserved and not end.is_loopback  # ::1 is both
    return end in _METADATA or end.is_link_local or end.is_multicast or end.is_unspecified or reserved
