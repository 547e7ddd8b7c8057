"""psqlODBC through unixODBC and pyodbc, with each of the settings that change what it sends; the program is `odbc_client.py`."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.clients.conftest import run_client
from tests.clients.pictures import COLUMNS, RESULT, Predicted

DRIVER = "PostgreSQL Unicode"
SETTINGS = {
    "default": "",
    "client_side": "UseServerSidePrepare=0",
    "declare_fetch": "UseDeclareFetch=1;Fetch=10",
    "rollback_statement": "Protocol=7.4-2",
    "rollback_transaction": "Protocol=7.4-1",
    "rollback_nothing": "Protocol=7.4-0",
}
Seen = dict[str, Any]


@pytest.fixture(scope="module")
def driver() -> str:
    if importlib.util.find_spec("pyodbc") is None:
        pytest.skip("pyodbc is not installed")
    done = run_client([sys.executable, "-c", "import json, pyodbc; print(json.dumps(pyodbc.drivers()))"])
    if done.returncode or DRIVER not in json.loads(done.stdout):
        pytest.skip("psqlODBC is not installed (Debian: odbc-postgresql, unixodbc)")
    return DRIVER


@pytest.fixture(scope="module", params=SETTINGS)
def seen(request: pytest.FixtureRequest, driver: str, url: str) -> Seen:
    """One run of the program: what it saw, by the name it gave it."""
    parts = conninfo_to_dict(url)
    address = f"Driver={{{driver}}};Server={parts['host']};Port={parts['port']};Database={parts['dbname']}"
    login = f"Uid={parts['user']};Pwd={parts['password']}"
    program = str(Path(__file__).with_name("odbc_client.py"))
    connection = ";".join((address, login, SETTINGS[request.param]))
    done = run_client([sys.executable, program, connection, f"by_odbc_{request.param}"], env={"PYTHONPATH": str(Path(__file__).parents[2])})
    assert done.returncode == 0, done.stderr
    observed = json.loads(done.stdout)
    assert isinstance(observed, dict)
    return observed | {"model": f"by_odbc_{request.param}"}


def listed(predicted: Predicted) -> list[list[object]]:
    return [list(row) for row in predicted]


def test_ordinary_sql(seen: Seen) -> None:
    assert seen["types"] == ["7", "Grüße 😀", "1.50", None]
    assert seen["table"] == [["id", "int4"], ["image", "text"], ["label", "text"]]
    assert seen["many rows"] == 31375


def test_a_rollback(seen: Seen) -> None:
    assert (seen["sum"], seen["after the rollback"]) == (1225, "42P01")


def test_build(seen: Seen) -> None:
    assert seen["build columns"] == RESULT
    name, version, classes, images = seen["built"]
    assert (name, version, classes.replace('"', ""), images) == (seen["model"], 1, "{blue,red}", 24)
    assert seen["dropped twice"] == "42704"


def test_predict(seen: Seen, predicted: Predicted) -> None:
    assert (seen["columns"], seen["rows"]) == (COLUMNS, listed(predicted))
    assert seen["rows in autocommit"] == listed(predicted)


def test_parameters(seen: Seen, predicted: Predicted) -> None:
    assert seen["parameters"] == [listed([row for row in predicted if row[2] == "red" and row[0] < 3 * i]) for i in range(7)]


def test_failures_and_going_on(seen: Seen) -> None:
    assert (seen["unknown model"], seen["missing image"], seen["after errors"]) == ("42704", "58P01", 1)
    assert (seen["failure in autocommit"], seen["usable"]) == ("42704", "usable")


def test_a_failure_in_a_transaction(seen: Seen) -> None:
    """As with any error: the driver takes back the statement (by a savepoint), the transaction, or nothing."""
    assert seen["within"] == "42704"
    assert seen["gone on"] == seen["gone on after an ordinary error"]
    assert seen["gone on"][0] == ("25P02" if seen["model"] == "by_odbc_rollback_nothing" else "no error")
