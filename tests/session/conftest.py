"""A database with pictures in it and a model of them, built once for these tests."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.databases import Database
from tests.serving import Proxy, small_model


@pytest.fixture(scope="module")
def url(proxy: Proxy, module_database: Database) -> str:
    """A URL through the proxy of a database with table `pictures` and model `colours`."""
    address = proxy.url(module_database)
    small_model(address)
    return address


@pytest.fixture
def connection(url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """An autocommit connection through the proxy."""
    with psycopg.connect(url, autocommit=True) as open_connection:
        yield open_connection
