"""Every cell of the table of positions in docs/sql.md, with psql, asyncpg, psycopg 3 and pgjdbc.

What a client must see through the proxy is what the same client sees of PostgreSQL itself, connected to it without the proxy, when a
plain table of the same predictions stands in the place of PREDICT: rows, columns and their types, tags, the bytes of a COPY, and what
the statement has left behind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from tests.clients.cells import in_asyncpg, in_jdbc, in_psql, in_psycopg
from tests.clients.cells.script import Scripts, Seen, Step, error, script
from tests.clients.java import compiled
from tests.clients.pictures import Predicted
from tests.databases import Database
from tests.positions import MODES, POSITIONS, REFUSED, YES, Case

CLIENTS = ("psql", "asyncpg", "psycopg", "jdbc")
CASES = {name: (position, case) for position in POSITIONS for name, case in position.cases.items()}

CANNOT = {
    # (client, beginning of the cases' names): the modes it has no way to send such a statement in
    ("asyncpg", "copy"): ("extended", "prepared"),  # drivers have a method of their own for COPY, and that sends a simple Query
    ("psycopg", "copy"): ("extended", "prepared"),
    ("jdbc", "copy"): ("extended", "prepared"),
    ("jdbc", "execute"): ("extended",),  # there the PREPARE before it is in the extended protocol, too, and so refused
}
LOGGED = {"simple": r"statement: ", "extended": r"execute <unnamed>: ", "prepared": r"execute \w+: "}
"""What the server's log has before a statement of each mode."""

Client = tuple[str, str, Callable[[str, Scripts], Seen]]
"""A client, a mode, and what plays scripts so at a URL."""


class Played(NamedTuple):
    mode: str
    ours: Seen
    expected: Seen


def can(client: str, mode: str, name: str) -> bool:
    return not any(client == one and name.startswith(start) and mode in modes for (one, start), modes in CANNOT.items())


@pytest.fixture(scope="module")
def stored(client_database: Database, predicted: Predicted) -> Iterator[None]:
    """Table `photos`, and table `stored` with what a PREDICT by itself says of them."""
    with psycopg.connect(client_database.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE stored (id int, image text, label text, predicted text)")
        connection.cursor().executemany("INSERT INTO stored VALUES (%s, %s, %s, %s)", predicted[:12])
        connection.execute("CREATE TABLE photos AS SELECT id, image, label FROM stored")
        yield
        connection.execute("DROP TABLE photos, stored; DROP SCHEMA IF EXISTS cell CASCADE")


@pytest.fixture(scope="session")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(in_jdbc.PROGRAM, tmp_path_factory.mktemp("classes"))


@pytest.fixture(scope="module", params=product(CLIENTS, MODES), ids="-".join)
def client(request: pytest.FixtureRequest) -> Client:
    name, mode = request.param
    if name == "jdbc":
        return name, mode, partial(in_jdbc.play, mode=mode, classes=request.getfixturevalue("classes"))
    return name, mode, {"psql": in_psql.play, "asyncpg": in_asyncpg.play, "psycopg": in_psycopg.play}[name]


@pytest.fixture(scope="module")
def played(client: Client, url: str, client_database: Database, stored: None) -> Played:
    """What a client sees in a mode: of all cases through the proxy, and of all their twins without it."""
    name, mode, play = client
    able = {case: pair for case, pair in CASES.items() if can(name, mode, case)}
    ours = play(url, {case: script(*pair, mode) for case, pair in able.items()})
    return Played(mode, ours, play(client_database.url, {case: script(*pair, mode, stored=True) for case, pair in able.items()}))


def test_clients_speak_as_the_mode_says(client: Client, client_database: Database) -> None:
    name, mode, play = client
    client_database.execute(f"ALTER DATABASE {client_database.name} SET log_statement TO 'all'")
    mark = f"{name} in mode {mode}"
    bound = [] if mode == "simple" else [Step(mode, f"SELECT '{mark}', $1::int", (value,)) for value in (8, 3)]
    play(client_database.url, {"one": [Step(mode, f"SELECT '{mark}'"), *bound]})
    client_database.execute(f"ALTER DATABASE {client_database.name} RESET log_statement")
    log = client_database.postgres.log_file.read_text(encoding="utf-8")
    assert len(re.findall(rf"LOG:  {LOGGED[mode]}SELECT '{mark}'", log)) == len(re.findall(rf"LOG: .*{mark}", log)) == 1 + len(bound)


@pytest.mark.parametrize("name", CASES)
def test_cell(played: Played, name: str) -> None:
    position, case = CASES[name]
    if name not in played.ours:
        pytest.skip("the client has no way to send it so")
    cell, ours, expected = position.cells[MODES.index(played.mode)], played.ours[name], played.expected[name]
    runs = [i for i, step in enumerate(script(position, case, played.mode)) if step.way == played.mode]
    if cell == REFUSED:
        assert {ours[i][0] for i in runs} == {error("0A000")}
        assert [lines for i, lines in enumerate(ours) if i not in runs] == expected, "nothing else has happened"
        return
    if case.shows:
        ours, expected = ([shown(case, lines) if i in runs else lines for i, lines in enumerate(seen)] for seen in (ours, expected))
    assert ours == expected
    assert cell != YES or not any(line.startswith(error("")) for lines in ours for line in lines)


def shown(case: Case, lines: list[str]) -> list[str]:
    return re.findall(case.shows, "\n".join(lines))


def test_every_cell_has_cases_and_each_is_run() -> None:
    assert len(CASES) == sum(len(position.cases) for position in POSITIONS), "names are used once"
    assert all(position.cases for position in POSITIONS)
    assert all(can(client, "simple", name) for client in CLIENTS for name in CASES)
    assert all(can("psql", mode, name) for mode in MODES for name in CASES)
