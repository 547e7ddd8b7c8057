"""What a ClientHello says of protocols: real ones, made by OpenSSL, whole and in any pieces."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thanoproxy.wire.clienthello import offered_protocols


def hello(names: list[str], version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = version
    if names:
        context.set_alpn_protocols(names)
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("names", [[], ["postgresql"], ["h2", "http/1.1"], ["x" * 255] * 20])
def test_names(names: list[str], version: ssl.TLSVersion) -> None:
    data = hello(names, version)
    expected = [name.encode() for name in names]
    assert offered_protocols(data) == expected
    assert offered_protocols(data + b"what follows") == expected


def test_until_it_is_complete_nothing_is_known() -> None:
    data = hello(["postgresql"])
    assert {offered_protocols(data[:size]) is None for size in range(len(data))} == {True}


def test_a_message_may_lie_in_several_records() -> None:
    data = hello(["h2"])
    head, body = data[:3], data[5:]
    pieces = [body[i : i + 50] for i in range(0, len(body), 50)]
    assert offered_protocols(b"".join(head + len(piece).to_bytes(2, "big") + piece for piece in pieces)) == [b"h2"]


@pytest.mark.parametrize("data", [b"\x15\x03\x01\0\x02\x02\x28", b"\x16\x03\x01\0\x04\x02\0\0\0", b"\x16\x03\x01\0\x05\x01\0\0\x01\0"])
def test_something_else(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a|reaches too far"):
        offered_protocols(data)


@given(st.integers(0, 600), st.binary(max_size=6))
def test_no_bytes_do_harm(at: int, noise: bytes) -> None:
    data = hello(["postgresql", "h2"])
    damaged = data[:at] + noise + data[at + len(noise) :]
    try:
        names = offered_protocols(damaged)
    except ValueError:
        return
    assert names is None or all(isinstance(name, bytes) for name in names)
