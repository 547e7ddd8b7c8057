"""PostgreSQL's parse tree, as pglast gives it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pglast import ast

__all__ = ["walk"]


def walk(node: Any, skip: Any = None) -> Iterator[Any]:
    """`node` and every node below it, but for `skip` and what is below that."""
    if node is skip and node is not None:
        return
    if isinstance(node, tuple | list):
        for part in node:
            yield from walk(part, skip)
    elif isinstance(node, ast.Node):
        yield node
        for slot in node:
            yield from walk(getattr(node, slot), skip)
