"""The upstream's URL, with libpq's names and rules: https://www.postgresql.org/docs/18/libpq-connect.html."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

__all__ = ["WEAK_MODES", "Address", "check_options", "parse_url"]

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
WEAK_MODES = SSL_MODES[:3]
VERSIONS = ("TLSv1.2", "TLSv1.3")

# What may follow the question mark of upstream.url: libpq's names, with the values that are known if not every one is.
URL_PARAMETERS: Mapping[str, tuple[str, ...] | None] = {
    "sslmode": SSL_MODES,
    "sslnegotiation": ("postgres", "direct"),
    "sslrootcert": None,
    "sslcrl": None,
    "sslcert": None,
    "sslkey": None,
    "sslpassword": None,
    "ssl_min_protocol_version": VERSIONS,
    "ssl_max_protocol_version": VERSIONS,
    "passfile": None,  # for connections of our own
}


@dataclass(frozen=True)
class Address:
    """An upstream URL taken apart.  Where the server is reached by a unix socket, `socket_directory` is set and `host` is empty."""

    host: str
    port: int
    socket_directory: Path | None
    user: str | None
    password: str | None
    database: str | None
    options: Mapping[str, str]

    @property
    def socket_path(self) -> Path | None:
        """The unix socket itself, named as PostgreSQL names it."""
        return None if self.socket_directory is None else self.socket_directory / f".s.PGSQL.{self.port}"


def parse_url(url: str) -> Address:
    """The parts of a libpq connection URL that names one host.

    https://www.postgresql.org/docs/18/libpq-connect.html#LIBPQ-CONNSTRING-URIS; a host that begins with a slash is the folder of a
    unix socket.  Raises `ValueError`, whose text never repeats the URL, since that may hold a password.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres"):
        raise ValueError("should begin with postgresql://")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if options.get("sslrootcert") == "system":
        options.setdefault("sslmode", "verify-full")
    place = parts.netloc.rpartition("@")[2]
    if "," in place or "," in options.get("host", ""):
        raise ValueError("should name one host")
    bracketed = place.startswith("[")
    name, _, digits = (place[1:].partition("]")[0], "", place.rpartition("]:")[2]) if bracketed else place.partition(":")
    if bracketed and "]:" not in place:
        digits = ""
    host = options.pop("host", "") or unquote(name) or "127.0.0.1"
    port = options.pop("port", "") or digits or "5432"
    if not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValueError("should have a port between 1 and 65535")
    socket = Path(host) if host.startswith("/") else None
    return Address(
        host="" if socket else host,
        port=int(port),
        socket_directory=socket,
        user=options.pop("user", "") or unquote(parts.username or "") or None,
        password=options.pop("password", "") or unquote(parts.password or "") or None,
        database=options.pop("dbname", "") or unquote(parts.path.lstrip("/")) or None,
        options=options,
    )


def check_options(options: Mapping[str, str]) -> None:
    """Raises `ValueError` for parameters of a URL that we do not know, or that do not go together; as libpq does, whose rules these are."""
    for name, value in options.items():
        if name not in URL_PARAMETERS:
            raise ValueError(f"there is no parameter {name!r} (there are: {', '.join(URL_PARAMETERS)})")
        known = URL_PARAMETERS[name]
        if known is not None and value not in known:
            raise ValueError(f"{name} should be one of {', '.join(known)}")
    mode = options.get("sslmode", "prefer")
    if options.get("sslnegotiation") == "direct" and mode in WEAK_MODES:
        raise ValueError(f"sslnegotiation=direct needs an sslmode that always encrypts, and sslmode is {mode}")
    if options.get("sslrootcert") == "system" and mode != "verify-full":
        raise ValueError(f"sslrootcert=system needs sslmode=verify-full, and sslmode is {mode}")
    if options.get("ssl_min_protocol_version", VERSIONS[0]) > options.get("ssl_max_protocol_version", VERSIONS[-1]):
        raise ValueError("ssl_min_protocol_version is newer than ssl_max_protocol_version")
    for name in ("sslkey", "sslpassword"):
        if options.get(name) and not options.get("sslcert"):
            raise ValueError(f"{name} needs sslcert")
