"""DROP MODEL [IF EXISTS] name[@version] [CASCADE | RESTRICT], and DELETE MODEL, as the dialect first spelled it."""

from __future__ import annotations

from thanoproxy.catalog import store
from thanoproxy.sql.clauses import Cursor
from thanoproxy.statements.shapes import Rewrite

__all__ = ["parse"]


def parse(cursor: Cursor) -> Rewrite:
    """Behind DROP or DELETE."""
    cursor.expect("MODEL")
    if_exists = cursor.accept("IF", "EXISTS")
    model = cursor.model()
    if not cursor.accept("CASCADE"):
        cursor.accept("RESTRICT")  # nothing depends on a model, so the two mean the same
    cursor.end()
    version = model.version
    sql = store.drop_model(model.name, if_exists) if version is None else store.drop_version(model.name, version, if_exists)
    # One tag for both spellings: drivers take "DELETE n" apart and would look for a row count.
    return Rewrite(sql, b"DROP MODEL", ((model.name, model.position), (str(model), model.position)))
