"""ALTER MODEL [IF EXISTS] name RENAME TO name | OWNER TO role | SET VERSION number."""

from __future__ import annotations

from collections.abc import Callable

from thanoproxy.catalog import store
from thanoproxy.errors import FeatureNotSupported
from thanoproxy.sql.clauses import Cursor, ModelName
from thanoproxy.statements.roles import read_owner
from thanoproxy.statements.shapes import Rewrite

__all__ = ["parse"]

TAG = b"ALTER MODEL"


def parse(cursor: Cursor) -> Rewrite:
    """Behind ALTER."""
    cursor.expect("MODEL")
    if_exists = cursor.accept("IF", "EXISTS")
    model = cursor.model()
    if model.version is not None:
        raise FeatureNotSupported(
            "ALTER MODEL is about a model with all its versions", hint=f"Write {model.name} without @.", position=model.position
        )
    for word, change in _CHANGES.items():
        if cursor.accept(word):
            shape = change(cursor, model, if_exists)
            cursor.end()
            return shape
    raise cursor.error("RENAME TO, OWNER TO or SET VERSION")


def _rename(cursor: Cursor, model: ModelName, if_exists: bool) -> Rewrite:
    cursor.expect("TO", f"Write ALTER MODEL {model} RENAME TO new_name.")
    new = cursor.model("a new name for the model")
    if new.version is not None:
        raise FeatureNotSupported("versions have no names of their own", position=new.position)
    return Rewrite(store.rename_model(model.name, new.name, if_exists), TAG, _places(model) + _places(new))


def _give(cursor: Cursor, model: ModelName, if_exists: bool) -> Rewrite:
    cursor.expect("TO", f"Write ALTER MODEL {model} OWNER TO role.")
    role = read_owner(cursor)
    return Rewrite(store.give_model(model.name, role.sql, if_exists), TAG, (*_places(model), (role.name, role.position)))


def _set(cursor: Cursor, model: ModelName, if_exists: bool) -> Rewrite:
    cursor.expect("VERSION", f"Write ALTER MODEL {model} SET VERSION number.")
    position = cursor.position
    version = cursor.version("the number of a version")
    return Rewrite(store.set_version(model.name, version, if_exists), TAG, (*_places(model), (f"{model}@{version}", position)))


def _places(model: ModelName) -> tuple[tuple[str, int], ...]:
    return ((str(model), model.position),)


_CHANGES: dict[str, Callable[[Cursor, ModelName, bool], Rewrite]] = {"RENAME": _rename, "OWNER": _give, "SET": _set}
