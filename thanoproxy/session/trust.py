"""Whose schema thanosql is: what is in there runs with the rights of whoever sends a statement of ours.

The connection that listens for views looks when it opens (`thanoproxy.catalog.saved`).  Where it has found no catalogue, or nothing yet,
the server is asked in the client's session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thanoproxy.catalog.connection import OWNERS
from thanoproxy.errors import InsufficientPrivilege

if TYPE_CHECKING:
    from thanoproxy.session.attend import Attendant

__all__ = ["check_catalogue"]


async def check_catalogue(attendant: Attendant) -> None:
    """Raises `InsufficientPrivilege` where the schema is neither our role's nor a superuser's.  In a failed transaction nothing runs."""
    if attendant.exchange.pipeline.status == ord("E"):
        return
    names = attendant.reader.names
    await names.known()
    if names.catalogue:
        return
    async with attendant.aside():
        owners = {row[0] for row in await attendant.exchange.ask(OWNERS)} - {attendant.services.role}
    if owners:
        raise InsufficientPrivilege(
            f'schema thanosql of database "{attendant.identity.database}" is not the proxy\'s',
            detail=f'Role "{min(map(str, owners))}" made it.',
            hint="A superuser may drop it, and run `thanoproxy init`.",
        )
