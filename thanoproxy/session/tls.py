"""TLS on both sides: what the settings and the upstream URL ask for, as `ssl` contexts.

Clients   https://www.postgresql.org/docs/18/ssl-tcp.html
Upstream  https://www.postgresql.org/docs/18/libpq-ssl.html, the table of sslmode
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thanoproxy import config
from thanoproxy.errors import ConfigurationError
from thanoproxy.session.handshake import ALPN, ServerContext

__all__ = ["ServerTls", "UpstreamTls", "certified_name", "end_point", "server_tls", "upstream_tls"]


@dataclass(frozen=True, slots=True)
class ServerTls:
    """What we offer clients.  `end_point` is our certificate's hash for channel binding, None where it has none."""

    context: ssl.SSLContext
    required: bool
    end_point: bytes | None


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """How we reach the server; `context` is there unless `mode` is disable.

    `vouching` is the context with our certificate for the clients we vouch for, if the others are to go without.
    """

    mode: str = "disable"
    context: ssl.SSLContext | None = None
    vouching: ssl.SSLContext | None = None


def server_tls(settings: config.Tls) -> ServerTls | None:
    """Read the files that `settings` name; None where TLS is off.  Raises `ConfigurationError`."""
    if settings.mode == "off":
        return None
    assert settings.certificate is not None, "Tls checks it"
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = _VERSIONS[settings.min_version], _VERSIONS[settings.max_version]
    # As the server itself: sessions are not resumed, and nothing is negotiated twice.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    context.set_alpn_protocols([ALPN])
    _load_chain(context, settings.certificate, settings.key, "tls.certificate")
    if settings.client_ca is not None:
        _load_roots(context, settings.client_ca, "tls.client_ca")
        context.verify_mode = ssl.CERT_REQUIRED if settings.client_certificates == "require" else ssl.CERT_OPTIONAL
    try:
        leaf = end_point(ssl.PEM_cert_to_DER_cert(_first_certificate(settings.certificate)))
    except (OSError, ValueError) as problem:
        raise ConfigurationError(f"tls.certificate: cannot use {settings.certificate}: {_reason(problem)}") from problem
    return ServerTls(context, settings.mode == "require", leaf)


def upstream_tls(options: Mapping[str, str], *, vouch: bool = False) -> UpstreamTls:
    """What the URL's parameters ask for, with libpq's defaults.  Raises `ConfigurationError`."""
    mode = options.get("sslmode", "prefer")
    if mode == "disable":
        return UpstreamTls()
    context = _client_context(options, mode)
    # libpq would also take ~/.postgresql/postgresql.crt.  We do not: what it proves, it would prove for every client of ours.
    if not options.get("sslcert"):
        return UpstreamTls(mode, context)
    vouching = _client_context(options, mode) if vouch else None
    key = options.get("sslkey")
    _load_chain(vouching or context, Path(options["sslcert"]), Path(key) if key else None, "upstream.url: sslcert")
    return UpstreamTls(mode, context, vouching)


def _client_context(options: Mapping[str, str], mode: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    roots = _roots(options, mode)
    if roots is not None:
        _load_roots(context, roots, "upstream.url: sslrootcert")
        context.verify_mode = ssl.CERT_REQUIRED
    if mode == "verify-full":
        context.check_hostname = True
        context.hostname_checks_common_name = True
    return context


def certified_name(peer: ssl.SSLObject | None) -> bytes | None:
    """The common name in the certificate that a client has shown; None without one, or with several names."""
    subject: Any = (peer.getpeercert() if peer is not None else None) or {}
    names = [value for group in subject.get("subject", ()) for key, value in group if key == "commonName"]
    return names[0].encode() if len(names) == 1 else None


def end_point(certificate: bytes) -> bytes | None:
    """The hash of a DER certificate as `tls-server-end-point` has it (RFC 5929, section 4.1).

    None where the signature has no hash of its own (Ed25519), for which that RFC defines nothing.
    """
    from cryptography import x509  # here, since it takes 50 ms and only encrypted legs need it

    algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    if algorithm is None:
        return None
    name = "sha256" if algorithm.name in ("md5", "sha1") else algorithm.name
    return hashlib.new(name, certificate).digest()


_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def _roots(options: Mapping[str, str], mode: str) -> Path | None:
    """The file of trusted roots.  A root that is there is checked against even in mode require, as libpq does for compatibility."""
    named = options.get("sslrootcert")
    roots = Path(named) if named else Path.home() / ".postgresql" / "root.crt"
    if mode in ("verify-ca", "verify-full"):
        return roots
    return roots if mode == "require" and roots.exists() else None


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path | None, setting: str) -> None:
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as problem:
        raise ConfigurationError(f"{setting}: cannot use {certificate}{f' with key {key}' if key else ''}: {_reason(problem)}") from problem


def _load_roots(context: ssl.SSLContext, file: Path, setting: str) -> None:
    try:
        context.load_verify_locations(file)
    except OSError as problem:
        raise ConfigurationError(f"{setting}: cannot use {file}: {_reason(problem)}") from problem


def _no_password() -> str:
    # Without this OpenSSL asks at the terminal, which a service does not have.
    raise ValueError("the key is encrypted")


def _reason(problem: Exception) -> str:
    return (problem.strerror if isinstance(problem, OSError) else None) or str(problem)


def _first_certificate(file: Path) -> str:
    """The leaf, which stands first in a chain."""
    text = file.read_text(encoding="ascii", errors="replace")
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    start = text.index(begin)
    return text[start : text.index(end, start) + len(end)]
