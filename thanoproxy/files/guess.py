"""From the texts of a column to the type that a table gives it: the narrowest that holds all of them as PostgreSQL reads them.

What may be no number stays text: with leading zeros (postal codes), with a plus (telephone numbers).  Dates are taken for dates in
ISO 8601 only, which PostgreSQL reads the same whatever DateStyle is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple

from thanoproxy.files.table import TEXT

__all__ = ["Guess"]

_BOOLEAN = re.compile(r"t|f|true|false", re.IGNORECASE | re.ASCII)
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)", re.ASCII)
_REAL = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?", re.ASCII)
_NO_FINITE = frozenset({"nan", "inf", "-inf", "infinity", "-infinity"})
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIME = r"[ T][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?"
_ZONE = r"(?:Z|[+-](?:0[0-9]|1[0-5])(?::?[0-5][0-9])?)"
_DAY = re.compile(_DATE, re.ASCII)
_MOMENT = re.compile(f"{_DATE}(?:{_TIME})?", re.ASCII)
_ZONED = re.compile(f"{_DATE}{_TIME}{_ZONE}", re.ASCII)
_LONGEST = 400
_EXACT = 15
"""Digits that a float8 holds of any number (float.h: DBL_DIG)."""


def _bigint(value: str) -> bool:
    return _WHOLE.fullmatch(value) is not None and (len(value) < 19 or (len(value) <= 20 and -(2**63) <= int(value) < 2**63))


def _double(value: str) -> bool:
    if len(value) > _LONGEST or _REAL.fullmatch(value) is None:
        return value.lower() in _NO_FINITE
    if len(value) > _EXACT and _WHOLE.fullmatch(value) is not None and len(value.lstrip("-")) > _EXACT:
        return False
    number = float(value)
    underflow = number == 0 and any(digit in "123456789" for digit in re.split("[eE]", value)[0])
    return math.isfinite(number) and not underflow


def _numeric(value: str) -> bool:
    return len(value) <= _LONGEST and _REAL.fullmatch(value) is not None


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    def fits(value: str) -> bool:
        if pattern.fullmatch(value) is None:
            return False
        try:
            datetime.fromisoformat(value)
        except ValueError:  # the 30th of February
            return False
        return True

    return fits


class _Type(NamedTuple):
    fits: Callable[[str], bool]
    wider: tuple[str, ...] = ()


_TYPES: Mapping[str, _Type] = {
    "pg_catalog.bool": _Type(lambda value: _BOOLEAN.fullmatch(value) is not None),
    "pg_catalog.int8": _Type(_bigint, ("pg_catalog.float8", "pg_catalog.numeric")),
    "pg_catalog.float8": _Type(_double, ("pg_catalog.numeric",)),
    "pg_catalog.numeric": _Type(_numeric),
    "pg_catalog.date": _Type(_matches(_DAY), ("pg_catalog.timestamp",)),
    "pg_catalog.timestamp": _Type(_matches(_MOMENT)),
    "pg_catalog.timestamptz": _Type(_matches(_ZONED)),
    TEXT: _Type(lambda _: True),
}
"""The first that fits the first value is begun with; `wider` ones hold every value of it, too, and anything else is text."""


_KNOWN, _SHORT = 1000, 40


class Guess:
    """Of one column.  Texts without a character are NULL."""

    def __init__(self) -> None:
        self._type: str | None = None
        self._fits: Callable[[str], bool] = _never
        self._known = {""}  # most columns but those of numbers repeat themselves

    @property
    def type(self) -> str:
        """Of what was seen so far; text where that was nothing."""
        return self._type or TEXT

    def see(self, value: str) -> None:
        if value in self._known:
            return
        if not self._fits(value):
            among = _TYPES if self._type is None else (*_TYPES[self._type].wider, TEXT)
            self._type = next(name for name in among if _TYPES[name].fits(value))
            self._fits = _TYPES[self._type].fits
        if len(self._known) < _KNOWN and len(value) <= _SHORT:
            self._known.add(value)


def _never(_: str) -> bool:
    return False
