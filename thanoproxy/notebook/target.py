"""Where a notebook connects: a URL in the cell, else the environment.

A URL holds a password, and a cell's output is saved and shared with the notebook.  So what leaves this module as text is never the
URL or a part of it: only a `Target`, whose repr says nothing, and errors that name the kind of mistake.  libpq's own messages about
a malformed URL quote the piece it stumbled over, which with an unescaped `@` or `/` in the password is the password: they are not
shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from thanoproxy.notebook.faults import ConnectionFault

__all__ = ["Target", "from_environment", "parse_url", "split_url"]

_URL = re.compile(r"\s*(?P<url>(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://[^\n]*)\n?(?P<rest>.*)", re.DOTALL)
_POSTGRES = re.compile(r"postgres(?:ql)?(?:\+\w+)?\Z", re.IGNORECASE)
# What ThanoSQL's own magic took on its line; sent to a server as SQL, it would put the token into that server's log.
_LEGACY = re.compile(r"\s*(?:API_TOKEN|api_token|engine)\s*=", re.ASCII)

_URL_VARIABLES = ("THANOSQL_URL", "DATABASE_URL")
_LIBPQ_VARIABLES = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGDATABASE", "PGUSER")
_CONNECT_TIMEOUT = "10"

_HOW = "%thanosql postgresql://user:password@host:7432/database   (or set THANOSQL_URL, DATABASE_URL, or PGHOST, PGUSER, …)"
_MALFORMED = "this is not a PostgreSQL connection URL"
_ESCAPES = "In a user name or password write @ as %40, : as %3A, / as %2F, ? as %3F, # as %23, % as %25 and a space as %20."


class Target:
    """One place to connect to; `conninfo` holds the password, so nothing prints it."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self.conninfo = make_conninfo(**parameters)


def split_url(text: str) -> tuple[str | None, str]:
    """The connection URL that is the first line of `text`, or None, and the rest of the text, which is SQL."""
    if _LEGACY.match(text):
        raise ConnectionFault("a connection is made with a PostgreSQL URL, not with a token", hint=_HOW)
    match = _URL.match(text)
    if match is None:
        return None, text
    if not _POSTGRES.match(match["scheme"]):
        raise ConnectionFault(_MALFORMED, hint=_HOW)
    url = match["url"].rstrip()
    if any(character.isspace() for character in url):
        # Either SQL on the URL's own line, or a password with a space, of which what follows the space is a part.
        raise ConnectionFault(_MALFORMED, hint=_ESCAPES + " SQL begins on the next line.")
    return url, match["rest"]


def parse_url(url: str) -> Target:
    """A `postgresql://` URL as a target; SQLAlchemy's `postgresql+driver://` is taken too."""
    scheme, _, rest = url.partition("://")
    if not _POSTGRES.match(scheme):
        raise ConnectionFault(_MALFORMED, hint=_HOW)
    parameters = None if _is_ambiguous(rest) else _parameters(f"postgresql://{rest}")
    if parameters is None:
        raise ConnectionFault(_MALFORMED, hint=_ESCAPES)
    parameters.setdefault("connect_timeout", _CONNECT_TIMEOUT)
    return Target(parameters)


def from_environment(environment: Mapping[str, str]) -> Target:
    """The target that the environment names; a DATABASE_URL for another kind of database does not count."""
    for name in _URL_VARIABLES:
        url = environment.get(name, "")
        if _POSTGRES.match(url.partition("://")[0]):
            return parse_url(url)
    if any(environment.get(name) for name in _LIBPQ_VARIABLES):
        # libpq reads the PG* variables, ~/.pgpass and the service file by itself.
        return Target({} if environment.get("PGCONNECT_TIMEOUT") else {"connect_timeout": _CONNECT_TIMEOUT})
    raise ConnectionFault("not connected to a database", hint=_HOW)


def _parameters(url: str) -> dict[str, str] | None:
    try:
        found = {key: str(value) for key, value in conninfo_to_dict(url).items() if value is not None}
    except psycopg.Error:
        return None
    ports = found.get("port", "").split(",")
    return found if all(port.isdecimal() for port in ports if port) else None


def _is_ambiguous(rest: str) -> bool:
    """Whether an unescaped character may make libpq take a part of the password for a host, a port or a database.

    libpq ends user and password at the first `@`, and finds none at all where a `/` comes before it.  A password is followed by the
    `@` of the host: ended too early, or not found, it leaves an `@` over further on.
    """
    user, _, after = rest.partition("@")
    return "@" in (rest if "/" in user else after)
