"""pgjdbc, all scripts of a mode in one process of Java (`Cells.java`)."""

from __future__ import annotations

from pathlib import Path

from tests.clients.cells.script import Scripts, Seen, Step, in_parts
from tests.clients.java import run_java

__all__ = ["PROGRAM", "play"]

PROGRAM = Path(__file__).with_name("Cells.java")

SETTINGS = {"simple": ("simple", "0"), "extended": ("extended", "0"), "prepared": ("extendedForPrepared", "1")}
"""preferQueryMode and prepareThreshold: what pgjdbc is told so that it speaks as the mode says."""


def play(url: str, scripts: Scripts, mode: str, classes: Path) -> Seen:
    steps = "".join(f"{_line(step)}\n" for steps in scripts.values() for step in steps)
    return in_parts(run_java(classes, "Cells", url, *SETTINGS[mode], stdin=steps).splitlines(), scripts)


def _line(step: Step) -> str:
    return "\t".join((step.way, " ".join(map(str, step.values)), step.spelled("?")))
