"""The magics themselves, thin: split the text, ask the session, hand back what IPython shows.

`thanosql` and `psql` share one connection.  `psql` promises that its text reaches the server untouched; `thanosql` does so today
as well, and is where values of notebook variables will be bound.  Neither lets IPython expand `$name` or `{name}`, which SQL uses
for itself.
"""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING

import pandas as pd
from IPython.core.magic import MAGIC_NO_VAR_EXPAND_ATTR

from thanoproxy.notebook.session import Session
from thanoproxy.notebook.target import split_url

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["register", "unregister"]

_NAMES = ("thanosql", "psql")
_sessions: dict[int, Session] = {}  # one for each shell, by its id


def register(shell: InteractiveShell) -> None:
    """Give `shell` the line and cell magics `thanosql` and `psql`."""
    session = Session()

    def magic(line: str, cell: str | None = None) -> pd.DataFrame | None:
        """Run SQL, or connect: `%thanosql postgresql://user:password@host:7432/database`.

        `%%thanosql` runs the cell and shows its last result; `df = %thanosql SELECT …` gives it as a DataFrame.
        Without any text it says where the notebook is connected.
        """
        return _answer(session, line, cell)

    setattr(magic, MAGIC_NO_VAR_EXPAND_ATTR, True)
    for name in _NAMES:
        shell.magics_manager.register_function(magic, magic_kind="line_cell", magic_name=name)
    _sessions[id(shell)] = session
    atexit.register(session.close)


def unregister(shell: InteractiveShell) -> None:
    """Take them away again and close the connection."""
    for kind in ("line", "cell"):
        for name in _NAMES:
            shell.magics_manager.magics[kind].pop(name, None)
    session = _sessions.pop(id(shell), None)
    if session is not None:
        atexit.unregister(session.close)
        session.close()


def _answer(session: Session, line: str, cell: str | None) -> pd.DataFrame | None:
    url, text = split_url(_joined(line, cell))
    if url is not None:
        session.connect(url)
    if text.strip():
        return session.run(text)
    print(session.describe())
    return None


def _joined(line: str, cell: str | None) -> str:
    """The statement text, without the magic's own line when that is empty: LINE 1 of an error is the first line of SQL."""
    if cell is None:
        return line
    return f"{line}\n{cell}" if line.strip() else cell
