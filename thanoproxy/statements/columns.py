"""The columns of an inner query, found by the names that options give them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from thanoproxy.errors import UndefinedColumn, WrongType
from thanoproxy.statements.options import Chosen
from thanoproxy.statements.shapes import Added
from thanoproxy.wire.messages import Column
from thanoproxy.wire.values import BYTEA, SIZES, TEXT_TYPES

__all__ = ["columns_of", "image_column", "label_column", "names"]


def names(columns: Sequence[Column], codec: str) -> list[str]:
    """The columns' names as text."""
    return [column.name.decode(codec, "replace") for column in columns]


def columns_of(made: Sequence[Added], codec: str) -> tuple[Column, ...]:
    """Columns that we make, in text format."""
    return tuple(Column(name.encode(codec, "replace"), type_oid, type_size=SIZES.get(type_oid, -1)) for name, type_oid in made)


def image_column(columns: Sequence[Column], codec: str, options: Chosen) -> int:
    """Where the image is: `image_col`, or else `image`, or else `image_path`; text or bytea."""
    known = names(columns, codec)
    wanted = options.get("image_col")
    index = _find(known, wanted, options.position("image_col"), "image_col") if wanted else _default(known, ("image", "image_path"))
    if columns[index].type_oid != BYTEA and columns[index].type_oid not in TEXT_TYPES:
        raise WrongType(
            f'column "{known[index]}" cannot hold images: it is neither text nor bytea',
            hint="An image is a path (text) or the file's own bytes (bytea).",
            position=options.position("image_col"),
        )
    return index


def label_column(columns: Sequence[Column], codec: str, options: Chosen) -> int:
    """Where the label is: `label_col`, or else `label`; any type, taken in its text form."""
    known = names(columns, codec)
    wanted = options.get("label_col")
    return _find(known, wanted, options.position("label_col"), "label_col") if wanted else _default(known, ("label",), "label_col")


def _default(known: list[str], candidates: tuple[str, ...], option: str = "image_col") -> int:
    for name in candidates:
        if name in known:
            return known.index(name)
    wanted = " or ".join(f'"{name}"' for name in candidates)
    raise UndefinedColumn(f"the query has no column {wanted}", detail=_listed(known), hint=f"Name it with OPTIONS ({option}='…').")


def _find(known: list[str], wanted: str, position: int | None, option: str) -> int:
    for name in (wanted, wanted.lower()):
        if name in known:
            return known.index(name)
    near = difflib.get_close_matches(wanted, known, n=1)
    raise UndefinedColumn(
        f'the query has no column "{wanted}" ({option})',
        detail=_listed(known),
        hint=f'Did you mean "{near[0]}"?' if near else None,
        position=position,
    )


def _listed(known: list[str]) -> str:
    shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    return f"Its columns are: {shown}." if known else "It has no columns."
