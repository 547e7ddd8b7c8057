"""A database with pictures in it and a model of them, and a PostgreSQL that speaks TLS: made once for these tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import psycopg
import pytest
import uvloop

from tests.databases import Database
from tests.serving import Proxy, small_model
from tests.session.certificates import Authority
from tests.session.encrypted import EncryptedPostgres, find_programs, running_postgres


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What runs in the tests' own event loop runs on the one that the server has."""
    return {"uvloop": uvloop.new_event_loop}


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


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def server(authority: Authority) -> Iterator[EncryptedPostgres]:
    programs = find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL with TLS on this machine (apt install postgresql)")
    with running_postgres(programs, authority) as running:
        yield running
