"""What a suite says of each test, and how two runs of it compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["OK", "Score", "compare"]

OK = "ok"


@dataclass(frozen=True)
class Score:
    """One run: each test with what was said of it, the seconds it took (None if it was killed), and where its outputs are."""

    results: dict[str, str]
    seconds: float | None
    folder: Path

    def line(self) -> str:
        """`217 of 217  25.1 s`, and what became of the others."""
        counts = Counter(self.results.values())
        others = "".join(f", {count} {said}" for said, count in sorted(counts.items()) if said != OK)
        took = "killed, it hung" if self.seconds is None else f"{self.seconds:.1f} s"
        return f"{counts[OK]} of {len(self.results)}{others}  ({took})"


def compare(direct: Score, proxied: Score) -> Iterator[str]:
    """A line for everything that makes the proxy's run another than the direct one; none if they are the same."""
    if not direct.results:
        yield f"the direct run has no results, see {direct.folder}"
    if None in (direct.seconds, proxied.seconds):
        yield "a run did not come to its end"
    for name in sorted(direct.results.keys() | proxied.results.keys()):
        one, other = direct.results.get(name, "not run"), proxied.results.get(name, "not run")
        if one != other:
            yield f"{name}: {one} directly, {other} through the proxy, see {proxied.folder}"
