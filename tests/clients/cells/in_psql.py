r"""psql, all scripts in one process; `\bind` came with 16, and `\parse` with 18, so it is the one of the embedded PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain, count

import pytest

from tests.clients.cells.script import MARK, Scripts, Seen, Step, error, in_parts
from tests.clients.conftest import run_client
from thanoproxy.embedded.binaries import shipped_psql

__all__ = ["play"]

_FAILED = re.compile(r"^(?:psql:\S+ )?ERROR:  (\w{5})$")


def play(url: str, scripts: Scripts) -> Seen:
    program = shipped_psql()
    if program is None:
        pytest.skip("no psql")
    typed = "\n".join(_typed(chain.from_iterable(scripts.values())))
    command = [str(program), "--no-psqlrc", "--no-align", "--set", "VERBOSITY=sqlstate", url]
    done = run_client(command, stdin=f"{typed}\n", errors="backslashreplace")  # a binary COPY is no text
    assert done.returncode == 0, done.stderr
    # Errors have a stream of their own, so marks stand in both; with the file and line before them they would not be comparable.
    failed = in_parts((_FAILED.sub(error(r"\1"), line) for line in done.stderr.splitlines()), scripts)
    given = in_parts(done.stdout.splitlines(), scripts)
    return {name: [_errors(one) + two for one, two in zip(failed[name], given[name], strict=True)] for name in scripts}


def _errors(lines: list[str]) -> list[str]:
    """Without notices and warnings."""
    return [line for line in lines if line.startswith(error(""))]


def _typed(steps: Iterable[Step]) -> Iterator[str]:
    names, number = dict[str, str](), count()
    for step in steps:
        # An empty line first: the bytes of a COPY need not end with one.
        yield f"\\echo\n\\echo {MARK}\n\\warn {MARK}"
        # psql itself would send the statements of a string one by one.
        text, values = step.text.replace("; ", r" \; "), " ".join(map(str, step.values))
        if step.way in ("aside", "look", "simple"):
            yield f"{text};"
        elif step.way == "extended":
            yield f"{text} \\bind {values} \\g"
        else:
            if text not in names:
                names[text] = f"cell_{next(number)}"
                yield f"{text} \\parse {names[text]}"
            yield f"\\bind_named {names[text]} {values} \\g"
