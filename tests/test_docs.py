"""The docs agree with the code: settings, errors, architectures, positions, commands, make targets and links.

Tables between `<!-- table: NAME -->` and `<!-- end -->` are made from the code; `make docs` writes them anew.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TypeGuard, get_args

import pytest
from pydantic import BaseModel

from tests.positions import POSITIONS
from thanoproxy import errors
from thanoproxy.config import Settings
from thanoproxy.models.registry import ARCHITECTURES, lookup
from thanoproxy.statements import build_model, convert, copy_files, evaluate, fit_model, predict, upload_model
from thanoproxy.statements.metrics import Tally

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

_TABLE = re.compile(r"<!-- table: (?P<name>\w+) -->\n(?P<body>.*?)<!-- end -->", re.DOTALL)
_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)]+)\)")


def page_id(page: Path) -> str:
    return page.name


def code_of(page: Path) -> Iterator[str]:
    """The lines of code of a page: in fenced blocks and between backquotes."""
    for match in _CODE.finditer(page.read_text(encoding="utf-8")):
        yield from match[0].strip("`").splitlines()


# Tables made from the code.


def errors_table() -> str:
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.ThanoError)]
    rows = sorted((one.sqlstate, one.__name__, meaning(one)) for one in classes if one is not errors.ThanoError)
    return table(("SQLSTATE", "error", "when"), [(f"`{code}`", name, text) for code, name, text in rows])


def meaning(error: type[errors.ThanoError]) -> str:
    code, _, text = " ".join((error.__doc__ or "").split()).partition(": ")
    assert code == error.sqlstate, f"the docstring of {error.__name__} begins with its SQLSTATE"
    return text.rstrip(".")


def settings_table() -> str:
    parts = []
    for section, field in Settings.model_fields.items():
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, BaseModel)
        fields = field.annotation.model_fields
        rows = [(f"`{section}.{name}`", default_of(section, name), one.description or "") for name, one in fields.items()]
        title = (field.annotation.__doc__ or "").strip()
        parts.append(f"## [{section}]\n\n{title}\n\n" + table(("setting", "default", "meaning"), rows))
        parts += [
            tables_table(f"{section}.{name}", kind) for name, one in fields.items() for kind in get_args(one.annotation) if is_model(kind)
        ]
    return "\n" + "\n".join(parts) + "\n"


def is_model(kind: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def tables_table(name: str, kind: type[BaseModel]) -> str:
    """Of a setting that is a list of tables."""
    rows = [
        (f"`{name}`", "" if one.is_required() or one.default is None else f"`{one.default}`", one.description or "")
        for name, one in kind.model_fields.items()
    ]
    return f"### [[{name}]]\n\n{(kind.__doc__ or '').strip()}\n\n" + table(("name", "default", "meaning"), rows)


def default_of(section: str, name: str) -> str:
    # Defaults that depend on who runs the process.
    special = {"artifacts.url": "`/var/lib/thanoproxy/artifacts` as root, else `$XDG_DATA_HOME/thanoproxy/artifacts`"}
    annotation = Settings.model_fields[section].annotation
    assert annotation is not None
    value = annotation.model_fields[name].default
    if f"{section}.{name}" in special:
        return special[f"{section}.{name}"]
    return "" if value is None or value == () else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def architectures_table() -> str:
    rows = [(f"`{name}`", ", ".join(f"`{file}`" for file in lookup(name).load().weight_files)) for name in sorted(ARCHITECTURES)]
    return table(("name", "pretrained weights are looked for as"), rows)


def positions_table() -> str:
    head = ("position", "example", "simple", "extended", "prepared, with parameters")
    return table(head, [(position.title, position.example, *position.cells) for position in POSITIONS])


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


TABLES: dict[str, Callable[[], str]] = {
    "errors": errors_table,
    "settings": settings_table,
    "architectures": architectures_table,
    "positions": positions_table,
}


def test_every_table_is_somewhere() -> None:
    found = [match["name"] for page in PAGES for match in _TABLE.finditer(page.read_text(encoding="utf-8"))]
    assert sorted(found) == sorted(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_tables_agree_with_the_code(name: str) -> None:
    bodies = [match["body"] for page in PAGES for match in _TABLE.finditer(page.read_text(encoding="utf-8")) if match["name"] == name]
    assert bodies == [TABLES[name]()], "run: make docs"


# What the pages name exists, and what exists is named.


@pytest.mark.parametrize(
    ("heading", "statement"),
    [
        ("BUILD MODEL", build_model),
        ("FIT MODEL", fit_model),
        ("PREDICT USING", predict),
        ("CONVERT USING", convert),
        ("EVALUATE USING", evaluate),
        ("UPLOAD MODEL", upload_model),
        ("COPY … OPTIONS", copy_files),
    ],
)
def test_every_option_is_documented(heading: str, statement: ModuleType) -> None:
    page = (ROOT / "docs" / "sql.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", page, flags=re.MULTILINE)
    described = next(text for text in section if text.startswith(heading))
    in_tables = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| (`[a-z_`, ]+) \|", described, re.MULTILINE))))
    assert in_tables == {name for key, rule in statement.RULES.items() for name in (key, *rule.aliases)}
    missing = next(text for text in section if text.startswith("What is not there yet"))
    assert {name for name in statement.LATER if f"`{name}`" not in missing} == set()


def test_every_metric_is_documented() -> None:
    page = (ROOT / "docs" / "sql.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \*\*(\w+)\*\* \|", page, re.MULTILINE) == [metric for _, metric, _ in Tally(()).overall()]


def targets() -> set[str]:
    return {target for line in re.findall(r"^([a-z][a-z -]*):", MAKEFILE, re.MULTILINE) for target in line.split()}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_make_targets_exist(page: Path) -> None:
    named = {name for line in code_of(page) for name in re.findall(r"(?:^|[$] )make ([a-z][a-z-]*)", line)}
    assert named <= targets()


@cache
def help_of(command: str) -> str:
    code = "import sys; from thanoproxy.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, command, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"thanoproxy {command} --help: {done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_and_flags_exist(page: Path) -> None:
    for line in code_of(page):
        match = re.match(r"(?:[$] )?thanoproxy ([a-z]+)\b(.*)", line)
        if match:
            flags = set(re.findall(r"--[a-z-]+", match[2].partition("#")[0]))
            assert flags <= set(re.findall(r"--[a-z-]+", help_of(match[1]))), line


def test_flags_of_serve_are_documented() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert {flag for flag in re.findall(r"--[a-z-]+", help_of("serve")) if f"`{flag}" not in page} <= {"--help"}


def headings(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_resolve(page: Path) -> None:
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def test_every_page_can_be_reached_from_the_readme() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in _LINK.findall(PAGES[0].read_text(encoding="utf-8"))}
    assert set(PAGES[1:]) <= linked


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_variables_are_settings(page: Path) -> None:
    settings = {
        f"THANOPROXY_{section}__{name}".upper()
        for section, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        for name in field.annotation.model_fields
    }
    named = set(re.findall(r"THANOPROXY_[A-Z]+__[A-Z_]+", page.read_text(encoding="utf-8")))
    assert named <= settings


def write() -> None:
    """Write every table anew."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        page.write_text(_TABLE.sub(lambda m: f"<!-- table: {m['name']} -->\n{TABLES[m['name']]()}<!-- end -->", text), encoding="utf-8")


if __name__ == "__main__":
    write()
