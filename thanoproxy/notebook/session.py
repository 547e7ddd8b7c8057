"""One notebook's connection: opened when first needed, opened again when it was lost.

A cell's text goes to the server as it is, as one simple Query: without parameters psycopg neither prepares it nor looks for `%`.
So several statements are PostgreSQL's own implicit transaction, and positions in errors are positions in the cell.
"""

from __future__ import annotations

import os
from typing import Any

import pandas as pd
import psycopg
from psycopg.pq import ExecStatus, TransactionStatus

from thanoproxy.notebook import target as targets
from thanoproxy.notebook.faults import ConnectionFault, Interrupted, NotInNotebook, SqlError
from thanoproxy.notebook.frames import frame
from thanoproxy.notebook.notices import Notices

__all__ = ["Session"]

_NO_COPY = (
    "COPY FROM STDIN and COPY TO STDOUT have no file to read or write in a notebook",
    "Use SELECT to get rows and INSERT to send them, or run COPY in psql.",
)

_Connection = psycopg.Connection[tuple[Any, ...]]


class Session:
    """The connection of one notebook and where it leads."""

    def __init__(self) -> None:
        self._target: targets.Target | None = None
        self._connection: _Connection | None = None
        self._notices = Notices()

    def connect(self, url: str) -> None:
        """Connect to `url` in place of where the notebook was connected."""
        target = targets.parse_url(url)
        connection = self._open(target)
        self.close()
        self._target, self._connection = target, connection

    def close(self) -> None:
        """Close the connection; the next statement opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def describe(self) -> str:
        """Where the notebook is connected, without any secret."""
        info = self._connected().info
        version = info.parameter_status("server_version")
        return f"Connected to {info.host}:{info.port}, database {info.dbname}, as {info.user} (PostgreSQL {version})."

    def run(self, text: str) -> pd.DataFrame | None:
        """Run every statement in `text`: print the tags, return the last result set if there is one."""
        connection = self._connected()
        failure: BaseException
        try:
            with connection.cursor() as cursor:
                cursor.execute(text.encode(connection.info.encoding))
                return self._show(cursor)
        except psycopg.Error as error:
            failure = NotInNotebook(*_NO_COPY) if _leave_copy(connection) else SqlError(error, text)
        except KeyboardInterrupt:
            failure = Interrupted()
        finally:
            self._notices.finish()
        raise failure  # out here it carries no context, which would show psycopg's frames

    def _show(self, cursor: psycopg.Cursor[tuple[Any, ...]]) -> pd.DataFrame | None:
        self._notices.finish()
        last, unshown = None, None
        more: bool | None = True
        while more:
            if cursor.description is not None:
                _print_tag(unshown)
                last, unshown = frame(cursor), cursor.statusmessage
            else:
                _print_tag(cursor.statusmessage)
            more = cursor.nextset()
        return last

    def _connected(self) -> _Connection:
        if self._connection is not None and not self._connection.closed:
            return self._connection
        lost = self._connection is not None
        if self._target is None:
            self._target = targets.from_environment(os.environ)
        self._connection = self._open(self._target)
        if lost:
            print("The connection was lost and has been opened again: temporary tables and settings of the old one are gone.")
        return self._connection

    def _open(self, target: targets.Target) -> _Connection:
        try:
            connection = psycopg.connect(
                target.conninfo,
                autocommit=True,
                prepare_threshold=None,
                fallback_application_name="thanosql notebook",
                client_encoding="utf8",
            )
        except (psycopg.Error, OSError) as error:
            reason = str(error).strip()
        else:
            connection.add_notice_handler(self._notices)
            return connection
        raise ConnectionFault(reason, hint=_hint(reason))


def _print_tag(tag: str | None) -> None:
    if tag:
        print(tag)


def _hint(reason: str) -> str | None:
    if "no password supplied" in reason:
        return "Put the password into THANOSQL_URL, PGPASSWORD or ~/.pgpass rather than into a cell, which is saved with the notebook."
    return None


def _leave_copy(connection: _Connection) -> bool:
    """Bring the connection out of COPY, where psycopg's execute leaves it; False if it was not in COPY."""
    pgconn = connection.pgconn
    if connection.closed or pgconn.transaction_status != TransactionStatus.ACTIVE:
        return False
    while (result := pgconn.get_result()) is not None:
        if result.status == ExecStatus.COPY_IN:
            pgconn.put_copy_end(b"COPY FROM STDIN in a notebook")
        elif result.status == ExecStatus.COPY_OUT:
            connection.cancel_safe()
            while pgconn.get_copy_data(0)[0] > 0:
                pass
    return True
