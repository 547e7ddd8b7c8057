"""Statements that read views with predictions, and those that make such views (`thanoproxy.statements.saved`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from thanoproxy.catalog import store
from thanoproxy.errors import InsufficientPrivilege, ProgramLimitExceeded
from thanoproxy.session.materialise import hole_columns, refusing
from thanoproxy.sql.source import Source
from thanoproxy.statements.mentions import Mention, expanded, mentions
from thanoproxy.statements.render import hole_query
from thanoproxy.statements.saved import in_dialect, stub
from thanoproxy.statements.shapes import Rewrite, Save, inside_out

if TYPE_CHECKING:
    from thanoproxy.session.attend import Attendant

__all__ = ["check", "written_out"]

_DEEPEST = 32
"""Views that name views; the server has no such limit, but a text that grows needs one."""


async def written_out(attendant: Attendant, text: str, found: Sequence[Mention]) -> Source | None:
    """`text` with definitions in the place of the names `found` in it; None where it reads no such view.

    Raises `InsufficientPrivilege` or `UpstreamError`.
    """
    definitions = await _definitions(attendant, found)
    return expanded(text, definitions) if definitions else None


async def check(attendant: Attendant, shape: Save) -> None:
    """A view that could never be read is not made: its models and the columns that they need must be there.

    Raises `ThanoError`, or `Refused` for what the server finds wrong.
    """
    await attendant.check_model(shape)
    statement = shape.statement
    for hole in inside_out(statement.holes):
        if isinstance(hole.shape, Rewrite):
            continue
        query = hole_query(statement, hole, lambda inner: stub(statement, inner))
        with refusing(attendant, query):
            await hole_columns(attendant.exchange, hole.shape, query)


async def _definitions(attendant: Attendant, found: Sequence[Mention], depth: int = 0) -> dict[Mention, str]:
    """What the server knows to be a view with predictions, with its definition in the dialect."""
    if depth == _DEEPEST:
        raise ProgramLimitExceeded(f"views with predictions name each other more than {_DEEPEST} deep")
    written = sorted({mention.written for mention in found})
    rows = await attendant.exchange.ask(store.saved_views(written))
    definitions = dict[str, str]()
    for name, definition, shown, readable in rows:
        assert name is not None, "the name that was asked about"
        assert definition is not None, "a view has one"
        if readable != "t":
            raise InsufficientPrivilege(f"permission denied for view {shown}")
        dialect = in_dialect(definition)
        deeper = mentions(dialect, attendant.reader.names.all)
        more = await _definitions(attendant, deeper, depth + 1) if deeper else {}
        definitions[name] = expanded(dialect, more).text
    return {mention: definitions[mention.written] for mention in found if mention.written in definitions}
