"""The words that make a text worth a look in one database: those of our statements, and the names of views that hold predictions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from thanoproxy import statements
from thanoproxy.wire.framing import Marks

try:
    from thanoproxy.wire.search import SearchedMarks as _Marks
except ImportError:  # not compiled here
    _Marks = Marks  # type: ignore[assignment, misc]

__all__ = ["Names"]

_UNKNOWN = (b"FROM", b"JOIN", b"TABLE", b"USING")
"""Until the names are known, every text that could name a view is looked at."""
_MOST = 1024
_PATIENCE = 2.0


class Names:
    """Shared by the sessions of a database."""

    def __init__(self) -> None:
        self.marks: Marks = _Marks((*statements.MARKS, *_UNKNOWN))
        self.catalogue = False
        self._known = asyncio.Event()
        self._heard: frozenset[str] = frozenset()
        self._own: dict[str, None] = {}

    @property
    def all(self) -> frozenset[str]:
        return self._heard | self._own.keys()

    def heard(self, names: frozenset[str] | None) -> None:
        """These exist, as far as others can see; None where the database has no catalogue."""
        self.catalogue = names is not None
        names = names or frozenset()
        changed = names != self._heard or not self._known.is_set()
        self._heard = names
        self._known.set()
        if changed:
            self._change()

    def add(self, names: Iterable[str]) -> None:
        """A session of this front gives a view one of these names.  That one more is looked for costs little, so they are kept."""
        before = len(self._own)
        self._own.update(dict.fromkeys(names))
        if len(self._own) > _MOST:
            self._own = dict.fromkeys(list(self._own)[-_MOST:])
        if len(self._own) != before:
            self._change()

    async def known(self) -> None:
        """Wait for them, but not for ever; they are, unless this front was never in the database before."""
        if not self._known.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._known.wait(), _PATIENCE)

    def _change(self) -> None:
        words = (name.replace('"', '""').encode().upper() for name in sorted(self.all))
        self.marks.change((*statements.MARKS, *(() if self._known.is_set() else _UNKNOWN), *words))
