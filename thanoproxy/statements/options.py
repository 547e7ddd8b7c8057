"""OPTIONS as tables: what each may be, and one reader for all of them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from thanoproxy.errors import FeatureNotSupported, InvalidOption, SyntaxProblem, ThanoError
from thanoproxy.sql.clauses import Option, Value

__all__ = ["IMAGE_COLUMN", "LABEL_COLUMN", "RESULT_COLUMN", "Chosen", "Rule", "read_options"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One option: its type, its bounds, and the words or names it also answers to.

    `kind` is 'text', 'texts' (a list of them), 'bool', 'int', 'float' or 'floats' (a list); `least` is inclusive unless `above` says it
    is not; `choices` are matched in any case; `auto` lets the word 'auto' stand for None, `none` NONE and NULL; `yes` is what TRUE
    stands for, and then FALSE stands for None.
    """

    kind: str
    aliases: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    above: bool = False
    choices: tuple[str, ...] = ()
    auto: bool = False
    none: bool = False
    yes: int | None = None

    def read(self, option: Option) -> Any:
        """The option's value.  Raises `InvalidOption`."""
        value = option.value
        if self.auto and isinstance(value, str) and value.lower() == "auto":
            return None
        if (self.none and value is None) or (self.yes is not None and value is False):
            return None
        if self.yes is not None and value is True:
            return self.yes
        if self.kind == "floats" and isinstance(value, list):
            return tuple(self._number(replace(option, value=one)) for one in value)
        if self.choices:
            return self._choice(option)
        if self.kind == "bool" and not isinstance(value, bool):
            raise _wrong(option, "must be TRUE or FALSE")
        if self.kind == "text" and (not isinstance(value, str) or not value):
            raise _wrong(option, "must be a text in quotes")
        if self.kind == "texts" and not (isinstance(value, list) and value and all(isinstance(one, str) for one in value)):
            raise _wrong(option, "must be a list of texts, such as ['cat', 'dog']")
        if self.kind in ("int", "float"):
            return self._number(option)
        return value

    def _choice(self, option: Option) -> str:
        for choice in self.choices:
            if isinstance(option.value, str) and option.value.lower() == choice.lower():
                return choice
        or_list = f", NONE or a list of numbers{self._bounds()}" if self.kind == "floats" else ""
        raise _wrong(option, "must be " + " or ".join(f"'{choice}'" for choice in self.choices) + or_list)

    def _number(self, option: Option) -> int | float:
        value = option.value
        names = {"int": "a whole number", "float": "a number", "floats": "numbers"}
        or_auto = " or 'auto'" if self.auto else " or TRUE or FALSE" if self.yes is not None else ""
        if isinstance(value, bool) or not isinstance(value, int if self.kind == "int" else int | float):
            raise _wrong(option, f"must be {names[self.kind]}{self._bounds()}{or_auto}")
        low = self.least is not None and (value <= self.least if self.above else value < self.least)
        if low or (self.most is not None and value > self.most) or not math.isfinite(value):
            raise _wrong(option, f"must be {names[self.kind]}{self._bounds()}{or_auto}")
        return value if self.kind == "int" else float(value)

    def _bounds(self) -> str:
        if self.least is None:
            return ""
        low = f" above {_plain(self.least)}" if self.above else f" of at least {_plain(self.least)}"
        return low if self.most is None else f"{low} and at most {_plain(self.most)}"


@dataclass(frozen=True, slots=True)
class Chosen:
    """The options a statement was given, by their main names, with where their values stand."""

    values: Mapping[str, Any]
    positions: Mapping[str, int]

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)

    def position(self, name: str) -> int | None:
        return self.positions.get(name)

    def blamed(self, problem: ThanoError) -> ThanoError:
        """A worker's error, which knows of no text, pointing at the option that it is about."""
        for name, position in self.positions.items():
            if problem.message.startswith((f"option {name}", f"{name} file ")):
                return problem.at(position)
        return problem


IMAGE_COLUMN = {"image_col": Rule("text")}
LABEL_COLUMN = {"label_col": Rule("text")}
RESULT_COLUMN = {"result_col": Rule("text", aliases=("column_name",))}


def read_options(found: Mapping[str, Option], rules: Mapping[str, Rule], later: frozenset[str], statement: str) -> Chosen:
    """The values of `found` by the main names in `rules`.

    A name in `later` is known to the dialect but not offered yet (0A000); any other name is an error with the nearest one as a hint.
    """
    names = {alias: name for name, rule in rules.items() for alias in (name, *rule.aliases)}
    values: dict[str, Any] = {}
    positions: dict[str, int] = {}
    for key, option in found.items():
        name = names.get(key)
        if name is None:
            raise _unknown(option, names, later, statement)
        if name in values:
            raise SyntaxProblem(f'option "{key}" means "{name}", which is given as well', position=option.key_position)
        values[name] = rules[name].read(option)
        positions[name] = option.position
    return Chosen(values, positions)


def _unknown(option: Option, names: Mapping[str, str], later: frozenset[str], statement: str) -> Exception:
    if option.key in later:
        return FeatureNotSupported(f'option "{option.key}" of {statement} is not supported yet', position=option.key_position)
    near = difflib.get_close_matches(option.key, names, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}?" if near else "Options are: " + ", ".join(sorted(names)) + "."
    return SyntaxProblem(f'unknown option "{option.key}" of {statement}', hint=hint, position=option.key_position)


def _wrong(option: Option, rule: str) -> InvalidOption:
    return InvalidOption(f'option "{option.key}" {rule}, not {_shown(option.value)}', position=option.position)


def _plain(number: float) -> str:
    return f"{number:.0f}" if number == int(number) else f"{number:g}"


def _shown(value: Value) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).upper()
    return f"'{value}'" if isinstance(value, str) else str(value)
