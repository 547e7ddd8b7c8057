"""What pyodbc with psqlODBC sees through the proxy, as one JSON object; test_odbc.py says what it must be.

It runs in a process of its own, since the driver may wait for the server in calls that hold the GIL.
Usage: python odbc_client.py CONNECTION_STRING MODEL
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from decimal import Decimal

import pyodbc

from tests.clients.pictures import PREDICT, build


def state_of(cursor: pyodbc.Cursor, text: str, *parameters: object) -> str:
    try:
        cursor.execute(text, *parameters)
    except pyodbc.Error as error:
        return str(error.args[0])
    return "no error"


def columns(cursor: pyodbc.Cursor) -> list[str]:
    return [column[0] for column in cursor.description]


def rows(cursor: pyodbc.Cursor) -> list[list[object]]:
    return [list(row) for row in cursor.fetchall()]


def observations(connection: pyodbc.Connection, model: str) -> Iterator[tuple[str, object]]:
    cursor = connection.cursor()
    yield "driver", connection.getinfo(pyodbc.SQL_DRIVER_VER)

    values = (7, "Grüße 😀", Decimal("1.50"), None)
    cursor.execute("SELECT CAST(? AS int8), CAST(? AS varchar(50)), CAST(? AS numeric(5,2)), CAST(? AS date)", values)
    yield "types", [None if value is None else str(value) for value in cursor.fetchone()]
    yield "table", [[row.column_name, row.type_name] for row in cursor.columns(table="pictures")]
    cursor.execute("SELECT generate_series(1, 250)")
    yield "many rows", sum(row[0] for row in cursor)

    cursor.execute("CREATE TABLE odbc_never (a int)")
    cursor.executemany("INSERT INTO odbc_never VALUES (?)", [(i,) for i in range(50)])
    cursor.execute("SELECT sum(a) FROM odbc_never")
    yield "sum", cursor.fetchone()[0]
    connection.rollback()
    yield "after the rollback", state_of(cursor, "SELECT * FROM odbc_never")
    connection.rollback()

    cursor.execute(build(model))
    yield "build columns", columns(cursor)
    yield "built", list(cursor.fetchone())[:4]
    connection.commit()

    cursor.execute(PREDICT)
    yield "columns", columns(cursor)
    yield "rows", rows(cursor)
    found = []
    for i in range(7):
        cursor.execute(PREDICT.replace("ORDER", "WHERE label = ? AND id < ? ORDER"), "red", 3 * i)
        found.append(rows(cursor))
    yield "parameters", found

    yield "unknown model", state_of(cursor, "PREDICT USING nobody AS SELECT * FROM pictures")
    connection.rollback()
    yield "missing image", state_of(cursor, "PREDICT USING colours AS SELECT CAST(? AS text) AS image", "gone.png")
    connection.rollback()
    cursor.execute("SELECT 1")
    yield "after errors", cursor.fetchone()[0]

    cursor.execute("CREATE TEMP TABLE t (a int)")
    yield "within", state_of(cursor, "PREDICT USING nobody AS SELECT * FROM pictures")
    yield "gone on", [state_of(cursor, "SELECT 1"), state_of(cursor, "SELECT * FROM t")]
    connection.rollback()
    cursor.execute("CREATE TEMP TABLE t (a int)")
    state_of(cursor, "SELECT nothing FROM pictures")
    yield "gone on after an ordinary error", [state_of(cursor, "SELECT 1"), state_of(cursor, "SELECT * FROM t")]
    connection.rollback()

    cursor.execute(f"DROP MODEL {model}")
    connection.commit()
    yield "dropped twice", state_of(cursor, f"DROP MODEL {model}")
    connection.rollback()

    connection.autocommit = True
    cursor.execute(PREDICT)
    yield "rows in autocommit", rows(cursor)
    yield "failure in autocommit", state_of(cursor, "PREDICT USING nobody AS SELECT * FROM pictures")
    cursor.execute("SELECT 'usable'")
    yield "usable", cursor.fetchone()[0]


if __name__ == "__main__":
    with pyodbc.connect(sys.argv[1]) as opened:
        json.dump(dict(observations(opened, sys.argv[2])), sys.stdout)
