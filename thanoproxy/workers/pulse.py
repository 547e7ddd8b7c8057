"""Whether a worker hangs: a pure decision, taken each time it was asked what it is at.

It answers with a number for each of its threads that has work; one that has gone on since has another number.  What counts is how often
it was asked, and not the time, so that a machine that slept or a parent that was stopped takes nobody for dead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["LOOKS", "Pulse"]

LOOKS = 4
"""Times in a row that nothing has happened."""


@dataclass(frozen=True)
class Pulse:
    """`at_work` is the last answer; `same` counts for each thread how often it was the same, `silent` how often there was none."""

    at_work: Mapping[str, int] = field(default_factory=dict)
    same: Mapping[str, int] = field(default_factory=dict)
    silent: int = 0

    def after(self, answer: Mapping[str, int] | None) -> Pulse:
        """With another answer, or with None for none."""
        if answer is None:
            return Pulse(self.at_work, self.same, self.silent + 1)
        same = {name: self.same.get(name, 0) + 1 if self.at_work.get(name) == number else 0 for name, number in answer.items()}
        return Pulse(answer, same)

    @property
    def problem(self) -> str | None:
        """What hangs."""
        if self.silent >= LOOKS:
            return "It did not answer"
        stuck = [name for name, times in self.same.items() if times >= LOOKS]
        return f"Its {stuck[0]} thread did not get on" if stuck else None
