"""The Jupyter extension: `%load_ext thanosql`, then `%%thanosql`, `df = %thanosql …` and `%%psql`.

It is a plain PostgreSQL client (psycopg and pandas, extra `notebook`) and shares no code with the server: whatever it does, psql
could do too.  IPython calls the two functions below; nothing heavy is imported before that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["load_ipython_extension", "unload_ipython_extension"]


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics in `shell`."""
    from thanoproxy.notebook import magics

    magics.register(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take the magics out of `shell` and close their connection."""
    from thanoproxy.notebook import magics

    magics.unregister(shell)
