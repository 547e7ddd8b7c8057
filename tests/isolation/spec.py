"""A specification, as PostgreSQL's isolationtester reads it (specparse.y), and with `once { … }`, which runs before everything else."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Session", "Spec", "read_spec"]

_TOKEN = re.compile(r"\s+|\#[^\n]*|\{(?P<sql>[^}]*)\}|(?P<word>\w+)")


@dataclass
class Session:
    name: str
    setup: str = ""
    steps: dict[str, str] = field(default_factory=dict)


@dataclass
class Spec:
    once: str = ""
    setup: str = ""
    teardown: str = ""
    sessions: list[Session] = field(default_factory=list)
    permutations: list[list[str]] = field(default_factory=list)

    def session_of(self, step: str) -> Session:
        return next(session for session in self.sessions if step in session.steps)


def read_spec(path: Path) -> Spec:
    words = _words(path.read_text(encoding="utf-8"))
    spec = Spec()
    while words:
        keyword = words.pop(0)
        if keyword == "session":
            spec.sessions.append(Session(words.pop(0)))
        elif keyword == "step":
            name = words.pop(0)
            spec.sessions[-1].steps[name] = words.pop(0)
        elif keyword == "setup" and spec.sessions:
            spec.sessions[-1].setup = words.pop(0)
        elif keyword in ("once", "setup", "teardown"):
            setattr(spec, keyword, words.pop(0))
        elif keyword == "permutation":
            known = {step for session in spec.sessions for step in session.steps}
            spec.permutations.append([])
            while words and words[0] in known:
                spec.permutations[-1].append(words.pop(0))
        else:
            raise ValueError(f"{path.name}: {keyword!r} is not understood")
    unused = {step for session in spec.sessions for step in session.steps} - {step for order in spec.permutations for step in order}
    if unused:
        raise ValueError(f"{path.name}: steps that no permutation takes: {sorted(unused)}")
    return spec


def _words(text: str) -> list[str]:
    words, at = list[str](), 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"not understood: {text[at : at + 40]!r}")
        at = match.end()
        if match["sql"] is not None:
            words.append(match["sql"].strip())
        elif match["word"]:
            words.append(match["word"])
    return words
