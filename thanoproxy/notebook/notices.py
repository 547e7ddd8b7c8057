"""NOTICEs on their way to the cell's output, as they arrive.

A BUILD reports its progress in NOTICEs.  One whose routine field (`R`) is "progress" will be out of date with the next, so the next
is written over it; everything else keeps a line of its own.
"""

from __future__ import annotations

from psycopg.errors import Diagnostic

__all__ = ["Notices"]

PROGRESS = "progress"


class Notices:
    """Prints notices; `finish` ends a progress line that is still open."""

    def __init__(self) -> None:
        self._open = 0  # columns of the progress line that the next one overwrites

    def __call__(self, diag: Diagnostic) -> None:
        """Print one notice; this is the handler that psycopg calls."""
        if diag.source_function == PROGRESS:
            self._overwrite(diag.message_primary or "")
            return
        self.finish()
        print(f"{diag.severity}:  {diag.message_primary}", flush=True)
        for title, text in (("DETAIL", diag.message_detail), ("HINT", diag.message_hint)):
            if text:
                print(f"{title}:  {text}", flush=True)

    def finish(self) -> None:
        """Leave the progress line, so that what follows begins on a new one."""
        if self._open:
            self._open = 0
            print(flush=True)

    def _overwrite(self, text: str) -> None:
        print("\r" + text.ljust(self._open), end="", flush=True)
        self._open = len(text)
