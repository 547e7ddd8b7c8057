"""What a cell shows when something goes wrong, and that the notebook can be used afterwards."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tests.notebook.conftest import Notebook
from thanoproxy.notebook.faults import ConnectionFault, Interrupted, NotInNotebook, SqlError


def test_an_error_points_at_its_position(notebook: Notebook) -> None:
    cell = notebook.run("%%thanosql\nSELECT 1,\n\t'좋다' || nope\nFROM pg_class")
    assert isinstance(cell.error, SqlError)
    assert cell.printed == ("ERROR:  42703: column \"nope\" does not exist\nLINE 2:  '좋다' || nope\n                   ^\n")
    assert (cell.error.sqlstate, cell.error.position) == ("42703", 20)


def test_an_error_in_a_long_line_shows_its_surroundings(notebook: Notebook) -> None:
    cell = notebook.run("%thanosql SELECT " + "1 + " * 100 + "nope" + " + 1" * 100)
    _, line, caret = cell.printed.splitlines()
    assert len(line) < 120
    assert line[caret.index("^") :].startswith("nope")


def test_detail_hint_and_context_are_shown(notebook: Notebook) -> None:
    cell = notebook.run("%%thanosql\nDO $$BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '22023', DETAIL = 'because', HINT = 'try'; END$$")
    assert cell.printed.splitlines() == [
        "ERROR:  22023: no",
        "DETAIL:  because",
        "HINT:  try",
        "CONTEXT:  PL/pgSQL function inline_code_block line 1 at RAISE",
    ]


def test_an_error_without_a_position(notebook: Notebook) -> None:
    assert notebook.run("%thanosql SELECT 1/0").printed == "ERROR:  22012: division by zero\n"


def test_an_error_stops_the_cells_that_follow(notebook: Notebook) -> None:
    cell = notebook.run("df = %thanosql SELECT nope\nafterwards = 1")
    assert isinstance(cell.error, SqlError)
    assert "afterwards" not in notebook.shell.user_ns
    assert notebook.ok("%thanosql SELECT 1 AS a").value["a"][0] == 1


def test_errors_can_be_caught(notebook: Notebook) -> None:
    notebook.ok("from thanoproxy.notebook.faults import SqlError")
    notebook.ok("try:\n    %thanosql SELECT nope\nexcept SqlError as e:\n    state = e.sqlstate")
    assert notebook["state"] == "42703"


@pytest.mark.parametrize("statement", ["COPY t FROM STDIN", "COPY t TO STDOUT", "SELECT 1; COPY t TO STDOUT; SELECT 2"])
def test_copy_is_refused_and_the_session_lives_on(notebook: Notebook, statement: str) -> None:
    notebook.ok("%%thanosql\nCREATE TEMP TABLE t AS SELECT g FROM generate_series(1, 100000) g")
    cell = notebook.run(f"%%thanosql\n{statement}")
    assert isinstance(cell.error, NotInNotebook)
    assert "HINT:" in cell.printed
    assert notebook.ok("%thanosql SELECT count(*) AS n FROM t").value["n"][0] == 100_000


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as a terminal has it: a run in the background of a shell begins with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_cancels_the_statement(notebook: Notebook, interruptible: None) -> None:
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    started = time.monotonic()
    timer.start()
    cell = notebook.run("%thanosql SELECT pg_sleep(60)")
    assert time.monotonic() - started < 15
    assert isinstance(cell.error, Interrupted)
    assert cell.printed.startswith("Interrupted:")
    assert notebook.ok("%thanosql SELECT 1 AS a").value["a"][0] == 1


def test_a_lost_connection_is_opened_again(notebook: Notebook) -> None:
    lost = notebook.run("%thanosql SELECT pg_terminate_backend(pg_backend_pid())")
    assert isinstance(lost.error, SqlError)
    assert lost.error.sqlstate == "57P01"
    cell = notebook.ok("%thanosql SELECT 1 AS a")
    assert cell.printed.startswith("The connection was lost and has been opened again")
    assert cell.value["a"][0] == 1


def test_without_a_connection_the_cell_says_how_to_make_one(blank: Notebook) -> None:
    cell = blank.run("%%thanosql\nSELECT 1")
    assert isinstance(cell.error, ConnectionFault)
    assert cell.printed.startswith("ERROR:  not connected to a database\nHINT:  %thanosql postgresql://")
