"""Where a notebook connects, and that no password gets out on the way."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.databases import Database
from tests.notebook.conftest import Notebook
from thanoproxy.notebook import target
from thanoproxy.notebook.faults import ConnectionFault
from thanoproxy.notebook.session import Session
from thanoproxy.notebook.target import from_environment, parse_url, split_url

MARK = "s3cr3t"
HERE = "SELECT current_database() AS d, current_user AS u"


@pytest.fixture(scope="module")
def closed_port() -> Iterator[int]:
    """A port that refuses connections: bound, and nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def everything_shown(error: BaseException) -> str:
    chain, text = [error], ""
    while chain:
        one = chain.pop()
        text += f"{one}{one!r}{one.args!r}{vars(one)!r}"
        chain += [other for other in (one.__context__, one.__cause__) if other is not None]
    return text


def connect_as_a_magic_does(line: str) -> None:
    url, _ = split_url(line)
    assert url is not None
    Session().connect(url)


def test_connecting_says_where_and_not_how(blank: Notebook, empty_database: Database) -> None:
    cell = blank.ok(f"%thanosql {empty_database.url}")
    url = urlsplit(empty_database.url)
    assert cell.printed.startswith(f"Connected to {url.hostname}:{url.port}, database {empty_database.name}, as postgres (PostgreSQL 18")
    assert url.password is not None
    assert url.password not in cell.printed
    assert blank.ok("%thanosql").printed == cell.printed


@pytest.mark.parametrize("variable", ["THANOSQL_URL", "DATABASE_URL"])
def test_the_environment_names_a_url(blank: Notebook, empty_database: Database, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, empty_database.url)
    assert blank.ok(f"%thanosql {HERE}").value["d"][0] == empty_database.name


def test_the_environment_names_libpq_variables(blank: Notebook, empty_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    url = urlsplit(empty_database.url)
    for name, value in {
        "DATABASE_URL": "sqlite:///of/another/program.db",
        "PGHOST": url.hostname,
        "PGPORT": str(url.port),
        "PGUSER": url.username,
        "PGPASSWORD": url.password,
        "PGDATABASE": empty_database.name,
    }.items():
        assert value is not None
        monkeypatch.setenv(name, value)
    assert blank.ok(f"%thanosql {HERE}").value["d"][0] == empty_database.name


def test_the_order_of_the_variables() -> None:
    both = {"THANOSQL_URL": "postgresql://a@first/x", "DATABASE_URL": "postgres://b@second/y", "PGHOST": "third"}
    assert "host=first" in from_environment(both).conninfo
    assert "host=second" in from_environment({**both, "THANOSQL_URL": ""}).conninfo
    assert "host" not in from_environment({"PGHOST": "third"}).conninfo
    with pytest.raises(ConnectionFault, match="not connected"):
        from_environment({"DATABASE_URL": "mysql://u@h/d"})


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+asyncpg", "PostgreSQL"])
def test_every_usual_scheme_is_taken(scheme: str) -> None:
    assert "host=h" in parse_url(f"{scheme}://u:p@h:1/d").conninfo


def test_a_url_may_be_followed_by_sql(blank: Notebook, empty_database: Database) -> None:
    assert blank.ok(f"%%thanosql {empty_database.url}\n{HERE}").value["d"][0] == empty_database.name
    assert blank.ok(f"%%psql\n{empty_database.url}\n{HERE}").value["d"][0] == empty_database.name


def test_connecting_elsewhere(connect: Callable[[str], Notebook], database: Database, empty_database: Database) -> None:
    notebook = connect(database.url)
    assert notebook.ok(f"%thanosql {HERE}").value["d"][0] == database.name
    connect(empty_database.url)
    assert notebook.ok(f"%thanosql {HERE}").value["d"][0] == empty_database.name


def test_a_wrong_password(blank: Notebook, empty_database: Database) -> None:
    cell = blank.run(f"%thanosql {empty_database.url_of('postgres', MARK)}")
    assert isinstance(cell.error, ConnectionFault)
    assert "password authentication failed" in cell.printed
    assert MARK not in cell.printed + everything_shown(cell.error)


def test_a_missing_password_hints_at_better_places(blank: Notebook, empty_database: Database) -> None:
    cell = blank.run(f"%thanosql postgresql://postgres@127.0.0.1:{empty_database.postgres.port}/x")
    assert "PGPASSWORD" in cell.printed


@pytest.mark.parametrize("line", ["API_TOKEN=s3cr3t", "http://h/?token=s3cr3t", "https://u:s3cr3t@h", "mysql://u:s3cr3t@h/d"])
def test_what_is_no_postgresql_url_goes_to_no_server(blank: Notebook, line: str) -> None:
    cell = blank.run(f"%thanosql {line}")
    assert isinstance(cell.error, ConnectionFault)
    assert MARK not in cell.printed


def test_sql_is_not_taken_for_a_url() -> None:
    for text in ("SELECT 'postgresql://u:p@h/d'", "-- http://x\nSELECT 1", "SELECT API_TOKEN = 1 FROM t", ""):
        assert split_url(text) == (None, text)


@given(st.text(st.sampled_from("@:/?#%&=[] '\"\\ü1"), max_size=6), st.text(st.sampled_from("@:/?#%&=[] '\"\\ü1"), max_size=6))
@settings(max_examples=200, deadline=None)
def test_no_piece_of_an_unescaped_password_is_shown(closed_port: int, before: str, after: str) -> None:
    password = f"{before}{MARK}{after}{MARK}"
    with pytest.raises(ConnectionFault) as caught:
        connect_as_a_magic_does(f"postgresql://user:{password}@127.0.0.1:{closed_port}/db")
    assert MARK not in everything_shown(caught.value)


def test_nothing_prints_a_target() -> None:
    found = parse_url(f"postgresql://u:{MARK}@h/d")
    assert MARK in found.conninfo
    assert MARK not in f"{found} {found!r} {target.Target!r}"
