"""Runs the statements that come on standard input as a JSON list, and prints a JSON list of what psqlODBC tells of each.

It runs in a process of its own, since the driver may wait for the server in calls that hold the GIL.
Usage: python odbc_wrapped.py CONNECTION_STRING < STATEMENTS
"""

from __future__ import annotations

import json
import sys

import pyodbc


def told(cursor: pyodbc.Cursor, statement: str) -> object:
    try:
        cursor.execute(statement)
    except pyodbc.Error as error:
        return f"failed {error}"
    if cursor.description is None:
        return "no rows"
    columns = [f"{column[0]} {column[1].__name__}" for column in cursor.description]
    return columns, sorted([str(value) for value in row] for row in cursor.fetchall())


if __name__ == "__main__":
    with pyodbc.connect(sys.argv[1], autocommit=True) as connection:
        json.dump([told(connection.cursor(), statement) for statement in json.load(sys.stdin)], sys.stdout)
