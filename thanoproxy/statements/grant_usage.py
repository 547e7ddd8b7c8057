"""GRANT USAGE ON MODEL name, … TO role, … and REVOKE USAGE ON MODEL name, … FROM role, …"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from thanoproxy.catalog import store
from thanoproxy.errors import FeatureNotSupported, InvalidGrant
from thanoproxy.sql.clauses import Cursor, ModelName
from thanoproxy.statements.roles import Role, read_role
from thanoproxy.statements.shapes import Rewrite

__all__ = ["parse_grant", "parse_revoke"]

_Item = TypeVar("_Item")
_Make = Callable[[Sequence[str], Sequence[str]], str]
_NO_OPTION = "only the owner of a model can grant it"


def parse_grant(cursor: Cursor) -> Rewrite:
    """Behind GRANT."""
    _privileges(cursor)
    models = _list(cursor, _model)
    cursor.expect("TO", "Write GRANT USAGE ON MODEL name TO role.")
    roles = _list(cursor, _role)
    _refuse(cursor, "WITH", "GRANT", "OPTION")
    _refuse(cursor, "GRANTED", "BY")
    cursor.end()
    return _rewrite(store.grant_usage, b"GRANT", models, roles)


def parse_revoke(cursor: Cursor) -> Rewrite:
    """Behind REVOKE."""
    _refuse(cursor, "GRANT", "OPTION", "FOR")
    _privileges(cursor)
    models = _list(cursor, _model)
    cursor.expect("FROM", "Write REVOKE USAGE ON MODEL name FROM role.")
    roles = _list(cursor, _role)
    _refuse(cursor, "GRANTED", "BY")
    if not cursor.accept("CASCADE"):
        cursor.accept("RESTRICT")  # without grant options nothing depends on a grant
    cursor.end()
    return _rewrite(store.revoke_usage, b"REVOKE", models, roles)


def _rewrite(make: _Make, tag: bytes, models: Sequence[ModelName], roles: Sequence[Role]) -> Rewrite:
    places = [(model.name, model.position) for model in models] + [(role.name, role.position) for role in roles]
    return Rewrite(make([model.name for model in models], [role.sql for role in roles]), tag, tuple(places))


def _privileges(cursor: Cursor) -> None:
    """Up to ON MODEL: USAGE, or ALL, which is the same."""
    if cursor.accept("ALL"):
        cursor.accept("PRIVILEGES")
    else:
        _list(cursor, _privilege)
    cursor.expect("ON")
    cursor.expect("MODEL")


def _privilege(cursor: Cursor) -> None:
    position, token = cursor.position, cursor.peek()
    if token is not None and token.word == "ON":
        raise cursor.error("a privilege")
    name = cursor.identifier("a privilege")
    if name != "usage":
        raise InvalidGrant(f"invalid privilege type {name.upper()} for model", hint="The privilege on models is USAGE.", position=position)


def _model(cursor: Cursor) -> ModelName:
    model = cursor.model()
    if model.version is not None:
        raise FeatureNotSupported(
            "privileges are on a model with all its versions", hint=f"Write {model.name} without @.", position=model.position
        )
    return model


def _role(cursor: Cursor) -> Role:
    cursor.accept("GROUP")  # as before PostgreSQL 8.1
    return read_role(cursor)


def _list(cursor: Cursor, read: Callable[[Cursor], _Item]) -> list[_Item]:
    items = [read(cursor)]
    while cursor.accept(","):
        items.append(read(cursor))
    return items


def _refuse(cursor: Cursor, *words: str) -> None:
    position = cursor.position
    if cursor.accept(*words):
        raise FeatureNotSupported(f"{' '.join(words)} is not supported for models", hint=f"Leave it out: {_NO_OPTION}.", position=position)
