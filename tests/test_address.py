"""URLs of the upstream, taken apart; those that are refused are in test_config.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from thanoproxy.address import Address, parse_url


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("postgresql://", Address("127.0.0.1", 5432, None, None, None, None, {})),
        ("postgres://u@h:5433/d", Address("h", 5433, None, "u", None, "d", {})),
        (
            "postgresql://u%40x:p%3A@[::1]:54/d%20b?sslmode=require",
            Address("::1", 54, None, "u@x", "p:", "d b", {"sslmode": "require"}),
        ),
        (
            "postgresql://h/d?sslrootcert=system",
            Address("h", 5432, None, None, None, "d", {"sslrootcert": "system", "sslmode": "verify-full"}),
        ),
        ("postgresql://[::1]/d", Address("::1", 5432, None, None, None, "d", {})),
        ("postgresql:///db?host=/run/pg&port=6432&user=me", Address("", 6432, Path("/run/pg"), "me", None, "db", {})),
        ("postgresql://%2Frun%2Fpg/db", Address("", 5432, Path("/run/pg"), None, None, "db", {})),
    ],
)
def test_urls(url: str, address: Address) -> None:
    assert parse_url(url) == address


def test_the_path_of_a_unix_socket() -> None:
    assert parse_url("postgresql://%2Frun%2Fpg/db").socket_path == Path("/run/pg/.s.PGSQL.5432")
    assert parse_url("postgresql://h/db").socket_path is None
