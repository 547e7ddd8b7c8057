"""real[] from float32 values, in the formats of array_send and array_out.

Whole arrays at a time, since an embedding has a thousand values and a front many rows: 3 us for 1,280 of them in binary, 0.7 ms
in text.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from struct import Struct
from typing import Any

__all__ = ["float4_array", "numbers"]

_HEAD = Struct("!iiIii")
_FLOAT4 = 700
_SIZE = array("I", [4])
_DIGITS = (7, 8, 9)
"""Significant digits that tell a float32 from its neighbours; %g leaves trailing zeros out, so 7 is also 1 to 6."""
_BELOW, _TIE = (1 << 29) - 1, 1 << 28
"""The bits of a float64 that a float32 has no room for, and what they are half way between two of those.

A text that is read as such a float64 may be on either side, so going by way of float64 would not tell (7.038531e-26).
"""
_LARGE, _SMALL = 1e6, 1.1754944e-38
_WORDS = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}


def float4_array(values: bytes, format_: int) -> bytes:
    """A real[] of `values`, which are float32 with the least significant byte first; `format_` 1 is binary."""
    return _binary(values) if format_ == 1 else _text(values)


def numbers(values: bytes) -> Sequence[float]:
    """The values themselves."""
    return _read("f", values)


def _binary(values: bytes) -> bytes:
    """Each value is its size and its bytes, most significant first (array_send)."""
    words = _read("I", values)
    items = _SIZE * (2 * len(words))
    items[1::2] = words
    if sys.byteorder == "little":
        items.byteswap()
    return _HEAD.pack(1, 0, _FLOAT4, len(words), 1) + items.tobytes()


def _text(values: bytes) -> bytes:
    """The shortest digits that give each value again, as float4out writes them where extra_float_digits is at its default."""
    wanted = _read("f", values).tolist()
    texts, left = [""] * len(wanted), list(range(len(wanted)))
    for digits in _DIGITS:
        found = (f"%.{digits}g " * len(left) % tuple([wanted[i] for i in left])).split()
        for i, text in zip(left, found, strict=True):
            texts[i] = text
        wide = array("d", map(float, found))
        again, bits = array("f", wide), array("Q", wide.tobytes())
        left = [i for i, number, low in zip(left, again, bits, strict=True) if number != wanted[i] or low & _BELOW == _TIE]
    for i, number in enumerate(wanted):
        if not -_LARGE < number < _LARGE:
            texts[i] = _large(texts[i])
        elif number and -_SMALL < number < _SMALL:
            texts[i] = next(text for text in (f"{number:.{digits}g}" for digits in range(1, 10)) if array("f", [float(text)])[0] == number)
    return f"{{{','.join(texts)}}}".encode("ascii")


def _read(kind: str, values: bytes) -> array[Any]:
    found = array(kind, values)
    if sys.byteorder == "big":
        found.byteswap()
    return found


def _large(text: str) -> str:
    """float4out has six digits before it turns to exponents (FLT_DIG), whatever %g was told."""
    if text in _WORDS or "e" in text:
        return _WORDS.get(text, text)
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    whole, _, fraction = digits.partition(".")
    significant = (whole + fraction).rstrip("0")
    mantissa = significant if len(significant) == 1 else f"{significant[0]}.{significant[1:]}"
    return f"{sign}{mantissa}e+{len(whole) - 1:02}"
