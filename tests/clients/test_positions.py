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
from tests.clients.cells.script import Scripts, Seen, error, script
from tests.clients.java import compiled
from tests.clients.pictures import Predicted
from tests.databases import Database
from tests.positions import MODES, POSITIONS, REFUSED, YES, Case, Position

CLIENTS = ("psql", "asyncpg", "psycopg", "jdbc")
CASES = {name: (position, case) for position in POSITIONS for name, case in position.cases.items()}

CANNOT = {
    # (client, part of the row's title): the modes it has no way to send such a statement in
    ("asyncpg", "COPY"): ("extended", "prepared"),
    ("psycopg", "COPY"): ("extended", "prepared"),
    ("jdbc", "COPY"): ("extended", "prepared"),
    # Its Parse is of one statement each, also where they came in a string.
    ("jdbc", "EXECUTE"): ("extended",),
}
"""Drivers have a method of their own for COPY, and that sends a simple Query."""


class Played(NamedTuple):
    mode: str
    ours: Seen
    expected: Seen


def can(client: str, mode: str, position: Position) -> bool:
    return not any(client == one and part in position.title and mode in modes for (one, part), modes in CANNOT.items())


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
def played(request: pytest.FixtureRequest, url: str, client_database: Database, stored: None) -> Played:
    """What a client sees in a mode: of all cases through the proxy, and of all their twins without it."""
    client, mode = request.param
    play: Callable[[str, Scripts], Seen] = {"psql": in_psql, "asyncpg": in_asyncpg, "psycopg": in_psycopg, "jdbc": in_jdbc}[client].play
    if client == "jdbc":
        play = partial(in_jdbc.play, mode=mode, classes=request.getfixturevalue("classes"))
    able = {name: pair for name, pair in CASES.items() if can(client, mode, pair[0])}
    ours = play(url, {name: script(*pair, mode) for name, pair in able.items()})
    return Played(mode, ours, play(client_database.url, {name: script(*pair, mode, stored=True) for name, pair in able.items()}))


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
    for position in POSITIONS:
        assert position.cases
        assert all(can(client, "simple", position) for client in CLIENTS)
        assert all(can("psql", mode, position) for mode in MODES)
