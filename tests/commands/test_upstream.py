from __future__ import annotations

import logging

import pytest

from tests.databases import Database
from thanoproxy.catalog.install import MIGRATIONS
from thanoproxy.commands.psql import defaults
from thanoproxy.commands.upstream import client_url, open_upstream, prepare, psql_line
from thanoproxy.config import Settings, Upstream
from thanoproxy.errors import ConfigurationError


def behind(url: str) -> Settings:
    return Settings(upstream=Upstream(url=url))


@pytest.mark.parametrize(
    ("url", "address", "shown"),
    [
        ("postgresql://u:geheim@h/d", ("127.0.0.1", 7432), "postgresql://u@127.0.0.1:7432/d"),
        ("postgresql://h", ("0.0.0.0", 1), "postgresql://127.0.0.1:1/"),
        ("postgresql://u%40x@h/a%20b", ("::", 1), "postgresql://u%40x@[::1]:1/a%20b"),
    ],
)
def test_the_line_to_paste_holds_no_password(url: str, address: tuple[str, int], shown: str) -> None:
    assert client_url(behind(url), None, address) == shown
    assert psql_line(shown).endswith(f'psql "{shown}"')


async def test_serving_goes_on_without_the_schema(empty_database: Database, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await prepare(behind(empty_database.add_role()[1]))
        await prepare(behind("postgresql://127.0.0.1:1/x"))
        await prepare(behind(empty_database.url))
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", *("INFO" for _ in MIGRATIONS)]
    assert "thanoproxy init" in caplog.text


async def test_without_an_upstream_there_is_nothing_to_open() -> None:
    with pytest.raises(ConfigurationError, match=r"upstream\.url"):
        async with open_upstream(Settings()):
            pass


def test_what_leads_psql_to_us() -> None:
    settings = behind("postgresql://u:geheim@db.example:5/d")
    ours = {"PGHOST": "127.0.0.1", "PGPORT": "7432"}
    assert defaults(settings, {}) == {**ours, "PGUSER": "u", "PGDATABASE": "d"}
    assert defaults(settings, {"PGUSER": "me", "PGDATABASE": "mine", "PGPORT": "5432"}) == ours
