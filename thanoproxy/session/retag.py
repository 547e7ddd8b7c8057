"""Statements that become other SQL: the reply passes through, with the client's command tag and no position in text of ours."""

from __future__ import annotations

from collections.abc import Callable

from thanoproxy.catalog import store
from thanoproxy.wire import messages

__all__ = ["retag"]


def retag(tag: bytes | None) -> Callable[[int, bytes], bytes]:
    """A rewrite of reply frames, as `Forward` takes it."""

    def rewrite(kind: int, frame: bytes) -> bytes:
        if kind == ord("C") and tag is not None:
            return messages.command_complete(tag)
        if kind == ord("E"):
            fields = messages.read_error(frame[5:])
            missing = store.not_installed(fields.sqlstate, fields.text)
            return fields.with_position(None).encode() if missing is None else messages.error_response(missing)
        return frame

    return rewrite
