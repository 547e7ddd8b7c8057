"""Which rows of a request kill the worker that has them: a pure decision, taken after every trial.

A part of the rows is tried on a worker that has nothing else.  If it comes through, its rows are cleared; if the worker dies, the part
is halved, until a row stands alone.  The second half of a part that killed a worker, while its first half is cleared, is halved without
a trial of its own.  One worker may die of something else, so a row is only blamed for `PROOF` of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

__all__ = ["DEATHS", "Part", "Search", "begin", "died", "passed"]

PROOF = 2
"""Workers that a single row has to kill."""

DEATHS = 16
"""Workers that one search may cost: enough for two guilty rows of 64."""


class Part(NamedTuple):
    """Rows that are tried together.  `deaths` is for how many workers they alone can be blamed; `first` marks the first half of rows
    that killed one, whose second half comes next."""

    rows: range
    deaths: int = 0
    first: bool = False


@dataclass(frozen=True)
class Search:
    """`parts` are still to be tried, in this order."""

    parts: tuple[Part, ...]
    guilty: tuple[int, ...] = ()
    deaths: int = 0


def begin(rows: int) -> Search:
    """With rows that are suspect together, though nothing is known for certain: they were not alone."""
    return Search(tuple(part._replace(first=False) for part in _narrowed(Part(range(rows)))))


def passed(search: Search) -> Search:
    """The next part has come through."""
    tried, *others = search.parts
    if tried.first:
        others[:1] = _narrowed(others[0]._replace(deaths=1))
    return replace(search, parts=tuple(others))


def died(search: Search) -> Search:
    """The next part has killed its worker."""
    tried, *others = search.parts
    blamed = tried._replace(deaths=tried.deaths + 1, first=False)
    deaths = search.deaths + 1
    if len(blamed.rows) == 1 and blamed.deaths >= PROOF:
        return Search(tuple(others), (*search.guilty, blamed.rows[0]), deaths)
    return replace(search, parts=(*_narrowed(blamed), *others), deaths=deaths)


def _narrowed(part: Part) -> list[Part]:
    middle = len(part.rows) // 2
    return [Part(part.rows[:middle], first=True), Part(part.rows[middle:])] if middle else [part]
