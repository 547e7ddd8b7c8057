"""How the server is reached: parameters of the upstream URL, with libpq's meaning and defaults.

https://www.postgresql.org/docs/18/libpq-connect.html#LIBPQ-PARAMKEYWORDS and libpq-ssl.html, the table of sslmode.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from thanoproxy.errors import ConfigurationError
from thanoproxy.tls.files import load_chain, load_revoked, load_roots
from thanoproxy.tls.handshake import ALPN

__all__ = ["SYSTEM", "UpstreamTls", "revoked_file", "root_file", "upstream_tls"]

SYSTEM = "system"
"""The value of sslrootcert that stands for the authorities the system trusts."""

_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
_FOLDER = ".postgresql"


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """How we reach the server; `context` is there unless `mode` is disable.

    `direct`: TLS begins at once, without a request.  `vouching` is the context with our certificate for the clients we vouch for, if
    the others are to go without.
    """

    mode: str = "disable"
    context: ssl.SSLContext | None = None
    direct: bool = False
    vouching: ssl.SSLContext | None = None


def upstream_tls(options: Mapping[str, str], *, vouch: bool = False) -> UpstreamTls:
    """What the URL's parameters ask for; `config` has looked at their values.  Raises `ConfigurationError` for files of no use."""
    mode, direct = options.get("sslmode", "prefer"), options.get("sslnegotiation") == "direct"
    if mode == "disable":
        return UpstreamTls()
    context = _context(options, mode)
    # libpq would also take ~/.postgresql/postgresql.crt.  We do not: what it proves, it would prove for every client of ours.
    if not options.get("sslcert"):
        return UpstreamTls(mode, context, direct)
    vouching = _context(options, mode) if vouch else None
    key = options.get("sslkey")
    certificate, password = Path(options["sslcert"]), options.get("sslpassword", "")
    load_chain(vouching or context, certificate, Path(key) if key else None, "upstream.url: sslcert", password)
    return UpstreamTls(mode, context, direct, vouching)


def root_file(options: Mapping[str, str]) -> Path | None:
    """The file of trusted roots, if one is checked against: where it is there, also in mode require, as libpq does for compatibility."""
    named, mode = options.get("sslrootcert"), options.get("sslmode")
    if named == SYSTEM:
        return None
    roots = Path(named) if named else Path.home() / _FOLDER / "root.crt"
    if mode in ("verify-ca", "verify-full"):
        return roots
    return roots if mode == "require" and roots.exists() else None


def revoked_file(options: Mapping[str, str]) -> Path | None:
    """The file of revoked certificates, if one is named, or lies beside the roots that libpq takes by default."""
    if options.get("sslcrl"):
        return Path(options["sslcrl"])
    default = Path.home() / _FOLDER / "root.crl"
    return default if root_file(options) is not None and default.exists() else None


def _context(options: Mapping[str, str], mode: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _VERSIONS[options.get("ssl_min_protocol_version", "TLSv1.2")]
    context.maximum_version = _VERSIONS[options.get("ssl_max_protocol_version", "TLSv1.3")]
    context.set_alpn_protocols([ALPN])
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    roots = root_file(options)
    if options.get("sslrootcert") == SYSTEM:
        context.set_default_verify_paths()
        context.verify_mode = ssl.CERT_REQUIRED
    elif roots is not None:
        load_roots(context, roots, "upstream.url: sslrootcert")
        context.verify_mode = ssl.CERT_REQUIRED
    revoked = revoked_file(options)
    if revoked is not None and context.verify_mode is ssl.CERT_NONE:
        raise ConfigurationError("upstream.url: sslcrl needs a server's certificate that is checked: use sslmode=verify-full")
    if revoked is not None:
        load_revoked(context, revoked, "upstream.url: sslcrl")
    if mode == "verify-full":
        context.check_hostname = True
        context.hostname_checks_common_name = True
    return context
