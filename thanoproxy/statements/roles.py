"""Names of roles, as PostgreSQL's grammar takes them (RoleSpec in gram.y), and as SQL that tells the catalogue's functions."""

from __future__ import annotations

from typing import NamedTuple

from thanoproxy.catalog.quote import literal
from thanoproxy.errors import ReservedName, UndefinedObject
from thanoproxy.sql.clauses import Cursor

__all__ = ["PUBLIC", "Role", "read_owner", "read_role"]

PUBLIC = "public"
"""All roles.  No role can have that name, not even in quotes (user.c, IsReservedName)."""

_SESSION = frozenset({"CURRENT_USER", "CURRENT_ROLE", "SESSION_USER"})


class Role(NamedTuple):
    """`sql` is an expression of type text; only the server knows whom CURRENT_USER means."""

    name: str
    sql: str
    position: int


def read_role(cursor: Cursor) -> Role:
    """A role, or PUBLIC."""
    position, token = cursor.position, cursor.peek()
    name = cursor.identifier("the name of a role")
    assert token is not None, "there was an identifier"
    if token.word in _SESSION:
        return Role(name, f"{token.word}::pg_catalog.text", position)
    if name == "none":
        raise ReservedName('role name "none" is reserved', position=position)
    return Role(name, f"{literal(name)}::pg_catalog.text", position)


def read_owner(cursor: Cursor) -> Role:
    """A role that can own something."""
    role = read_role(cursor)
    if role.name == PUBLIC:
        raise UndefinedObject('role "public" does not exist', position=role.position)
    return role
