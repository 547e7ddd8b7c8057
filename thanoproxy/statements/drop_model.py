"""DROP MODEL [IF EXISTS] name, and DELETE MODEL, as the dialect first spelled it."""

from __future__ import annotations

from thanoproxy.catalog import store
from thanoproxy.errors import FeatureNotSupported
from thanoproxy.sql.clauses import Cursor
from thanoproxy.statements.shapes import Rewrite

__all__ = ["parse"]


def parse(cursor: Cursor) -> Rewrite:
    """Behind DROP MODEL or DELETE MODEL."""
    cursor.expect("MODEL")
    if_exists = cursor.accept("IF", "EXISTS")
    model = cursor.model()
    if model.version is not None:
        raise FeatureNotSupported("single versions cannot be dropped yet", position=model.position)
    cursor.end()
    # One tag for both spellings: drivers take "DELETE n" apart and would look for a row count.
    return Rewrite(store.drop_model(model.name, if_exists), b"DROP MODEL")
