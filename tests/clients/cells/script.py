"""A cell of the table of positions as a script of steps, and what a client has seen of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tests.positions import MODES, REFUSED, YES, Case, Position, as_stored

__all__ = ["MARK", "Scripts", "Seen", "Step", "error", "in_parts", "script"]

LITERAL = "8"
VALUES = (8, 3)
"""What stands in the place of a case's `$1`: in the text, and as a parameter in the first and the second run."""
MARK = "=== step"
ANEW = "DROP SCHEMA IF EXISTS cell CASCADE; CREATE SCHEMA cell; SET search_path TO cell, public"
"""Makes room for a case; what an earlier one has left there goes."""
LEFT_BEHIND = "SELECT count(*) FROM pg_class WHERE relname LIKE 'thanoproxy%' AND relnamespace = pg_my_temp_schema()"


class Step(NamedTuple):
    """One statement: sent as one of MODES, or beside the case's own, `aside` as a simple Query, and `look` so that its rows are seen."""

    way: str
    text: str
    values: tuple[int, ...] = ()
    """What to bind, a value for each `$1` in the text."""

    def spelled(self, placeholder: str) -> str:
        """The text with another placeholder than `$1` for its parameters, which are all the same."""
        return self.text.replace("$1", placeholder) if self.values else self.text


Scripts = Mapping[str, list[Step]]
"""By name.  All are played on one connection, as those of a pool are used, and go on behind a failure."""

Seen = dict[str, list[list[str]]]
"""By the same name: for each step the lines that show what the client was given."""


def in_parts(lines: Iterable[str], scripts: Scripts) -> Seen:
    """The output of a client that has played all scripts in turn and told where each step began."""
    parts: list[list[str]] = []
    for line in lines:
        if line == MARK:
            parts.append([])
        elif parts:
            parts[-1].append(line)
    assert len(parts) == sum(map(len, scripts.values())), "a part for each step"
    left = iter(parts)
    return {name: [next(left) for _ in steps] for name, steps in scripts.items()}


def error(sqlstate: str | None) -> str:
    """How runners show a failure."""
    return f"ERROR {sqlstate}"


def script(position: Position, case: Case, mode: str, *, stored: bool = False) -> list[Step]:
    """A case in a cell.  With `stored` nothing in it is ours, and a statement that is to be refused is left out."""
    cell = position.cells[MODES.index(mode)]
    spelled = as_stored if stored else str
    text = case.stored if stored else case.text
    steps = [Step("aside", ANEW), *(Step("aside", spelled(other)) for other in case.before)]
    for value in _values("$1" in case.text, mode, position):
        run = Step(mode, text.replace("$1", LITERAL)) if value is None else Step(mode, text, (value,) * text.count("$1"))
        steps += [] if stored and cell == REFUSED else [run]
        steps += [Step("look", other) for other in case.after] + [Step("aside", other) for other in case.undo]
    return [*steps, Step("aside", "ROLLBACK"), Step("look", LEFT_BEHIND)]


def _values(parameters: bool, mode: str, position: Position) -> tuple[int | None, ...]:
    """What is bound in each run, None where the statement has a literal."""
    prepared = position.cells[MODES.index("prepared")]
    if mode == "prepared":
        return VALUES[:1] if prepared == REFUSED else VALUES
    return (None, VALUES[0]) if mode == "extended" and parameters and prepared in (YES, REFUSED) else (None,)
