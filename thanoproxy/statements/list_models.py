"""LIST MODEL, SHOW MODELS: the models the current role may use, one row each."""

from __future__ import annotations

from thanoproxy.catalog import store
from thanoproxy.errors import FeatureNotSupported
from thanoproxy.sql.clauses import Cursor
from thanoproxy.statements.shapes import Rewrite

__all__ = ["parse"]


def parse(cursor: Cursor) -> Rewrite:
    """Behind LIST or SHOW; every era's spelling of the dialect is taken."""
    position = cursor.position
    if cursor.accept("TABLE") or cursor.accept("THANOSQL", "DATASET"):
        raise FeatureNotSupported("LIST TABLE is not supported yet", hint="In psql, \\dt lists tables.", position=position)
    cursor.accept("THANOSQL")
    if not (cursor.accept("MODEL") or cursor.accept("MODELS")):
        raise cursor.error("MODEL", "Write LIST MODEL.")
    cursor.end()
    return Rewrite(store.list_models())
