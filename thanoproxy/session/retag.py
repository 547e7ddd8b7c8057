"""Statements that become other SQL: the reply passes through, with the client's command tag and positions in the client's text."""

from __future__ import annotations

from collections.abc import Callable

from thanoproxy.catalog import store
from thanoproxy.statements.shapes import Rewrite
from thanoproxy.wire import messages

__all__ = ["UNCHANGED", "retag"]

UNCHANGED = Rewrite("")
"""For a statement of PostgreSQL's own."""


def retag(shape: Rewrite, codec: str = "utf-8") -> Callable[[int, bytes], bytes]:
    """A rewrite of reply frames, as `Forward` takes it.  Errors come in `codec`; in which of the catalogue's functions they were, nobody
    needs to know."""

    def rewrite(kind: int, frame: bytes) -> bytes:
        if kind == ord("C") and shape.tag is not None:
            return messages.command_complete(shape.tag)
        if kind == ord("E"):
            fields = messages.read_error(frame[5:])
            text = fields.said(codec)
            missing = store.not_installed(fields.sqlstate, text)
            if missing is not None:
                return messages.error_response(missing)
            return fields.without_place().with_position(_place(shape, text)).encode()
        return frame

    return rewrite


def _place(shape: Rewrite, message: str) -> int | None:
    """Where the client wrote the name that the catalogue's functions complain about."""
    return next((position for name, position in shape.places if f'"{name}"' in message), None)
