"""DESCRIBE MODEL name[@version]: what there is to know about a model, a property a row."""

from __future__ import annotations

from thanoproxy.catalog import store
from thanoproxy.sql.clauses import Cursor
from thanoproxy.statements.shapes import Rewrite

__all__ = ["parse"]


def parse(cursor: Cursor) -> Rewrite:
    """Behind DESCRIBE."""
    cursor.expect("MODEL")
    model = cursor.model()
    cursor.end()
    return Rewrite(store.describe_model(model.name, model.version), places=((str(model), model.position),))
