"""Who may import whom: the arrows between the rooms of the package go one way, and the front process stays free of torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import thanoproxy

PACKAGE = Path(thanoproxy.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# What runs behind the process line, in a worker.
WORKER = {"catalog.artifacts", "engine", "images", "models"}

# A room is a folder or a file directly below the package; a module with a line of its own follows that instead of its room's.  It
# may import the rooms named here, or where a module is named ("workers.jobs") that module only; its own room, and errors, always.
ALLOWED: dict[str, set[str]] = {
    "__main__": {"cli"},
    "cli": {"commands", "config"},
    "commands": {"catalog", "config", "embedded", "fronts", "server", "tls"},
    "fronts": {"config", "server", "session.listener", "wire", "workers"},
    "server": {"catalog", "config", "session", "statements.shapes", "tls", "wire", "workers"},
    "address": set(),
    "config": {"address", "places", "section"},
    "places": {"section"},
    "section": set(),
    "embedded": set(),
    "session": {"catalog", "config", "sql", "statements", "tls", "wire"}
    | {f"workers.{name}" for name in ("jobs", "pool", "reading", "spool")},
    "statements": {"catalog", "models.registry", "sql", "wire", "workers.jobs"},
    "wire": set(),
    "sql": set(),
    "tls": {"config", "wire"},
    "catalog": {"address", "tls", "workers.jobs"},
    "workers": set(),
    "workers.decoder": WORKER,
    "workers.decoding": WORKER,
    "workers.device_decoding": WORKER,
    "workers.device_loop": WORKER,
    "workers.intake": WORKER,
    "workers.pipeline": WORKER,
    "workers.predicting": WORKER,
    "workers.process": WORKER,
    "workers.recall": WORKER,
    "workers.rank_process": WORKER,
    "workers.ranks": WORKER,
    "workers.workshop": WORKER,
    "workers.quarantine": {"images.source"},
    "workers.reading": {"files.table"},
    "workers.reading_process": {"files"},
    "workers.settings": {"images.settings"},
    "engine": {"catalog.artifacts", "images", "models", "workers.jobs", "workers.spool"},
    "models": {"images"},
    "images": set(),
    "files": {"images.beneath", "wire.values"},
    "console": {"catalog", "config"},
    "notebook": set(),
    "errors": set(),
}

# torch costs seconds and hundreds of megabytes; the other side of the process line is where it is needed.
MAY_IMPORT_TORCH = (
    "engine",
    "images",
    "models",
    "workers.decoder",
    "workers.decoding",
    "workers.device_decoding",
    "workers.device_loop",
    "workers.intake",
    "workers.predicting",
    "workers.rank_process",
)
TORCH = {"torch", "torchvision", "torchcodec"}

LONGEST = 420
LONGEST_OF_ALL = {"session.attend": 600}  # the state machine is one piece
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helper", "helpers", "common", "manager", "misc", "base"}


def name_of(path: Path) -> str:
    """The module's name below the package, e.g. "wire.codec"; the package itself is ""."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, *, of_types_too: bool = True) -> Iterator[str]:
    """Every module that the file imports, at the top or inside a function, by its full name."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not of_types_too and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped.update(child for statement in node.body for child in ast.walk(statement))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides which room it comes from"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_in(name: str, places: Iterable[str]) -> bool:
    """Whether the module `name` is one of `places` or lies in one."""
    return any(name == place or name.startswith(place + ".") for place in places)


def may_import(name: str, imported: str) -> bool:
    room = name.split(".")[0]
    return is_in(imported, {room, "errors"} | ALLOWED.get(name, ALLOWED[room]))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_arrows_go_one_way(path: Path) -> None:
    room = name_of(path).split(".")[0]
    assert room in {"", *ALLOWED}, f"{room} is a new room: say in ALLOWED, and in docs/architecture.md, whom it may import"
    ours = {name.partition(".")[2] for name in imports_of(path) if name.split(".")[0] == "thanoproxy"}
    wrong = sorted(name for name in ours if name and not may_import(name_of(path), name))
    assert not wrong, f"{name_of(path)} may not import {wrong}"


@pytest.mark.parametrize("path", [path for path in MODULES if not is_in(name_of(path), MAY_IMPORT_TORCH)], ids=name_of)
def test_torch_stays_behind_the_process_line(path: Path) -> None:
    assert not TORCH & {name.split(".")[0] for name in imports_of(path, of_types_too=False)}


def modules_after(statement: str) -> set[str]:
    """The modules a new interpreter has loaded after `statement`."""
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("module", ["thanoproxy.server", "thanoproxy.fronts.process", "thanoproxy.cli", "thanoproxy.notebook"])
def test_importing_a_front_loads_no_torch(module: str) -> None:
    assert not TORCH & modules_after(f"import {module}")


def test_the_extension_loads_pandas_only_when_it_is_used() -> None:
    assert not {"pandas", "psycopg", "IPython"} & modules_after("import thanoproxy.notebook")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_short_and_named_for_what_they_hold(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_OF_ALL.get(name_of(path), LONGEST)
    assert not NAMES_THAT_SAY_NOTHING & set(name_of(path).split("."))


def test_no_two_rooms_import_each_other() -> None:
    """ALLOWED itself has no cycle, where whole rooms are named."""
    done: set[str] = set()

    def visit(room: str, path: tuple[str, ...]) -> None:
        assert room not in path, " -> ".join([*path, room])
        if room not in done:
            for other in sorted(ALLOWED[room]):
                if "." not in other:
                    visit(other, (*path, room))
            done.add(room)

    for room in ALLOWED:
        visit(room, ())
