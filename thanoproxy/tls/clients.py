"""What clients are offered: https://www.postgresql.org/docs/18/ssl-tcp.html."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any

from thanoproxy import config
from thanoproxy.tls.files import leaf_end_point, load_chain, load_roots
from thanoproxy.tls.handshake import ALPN, ServerContext

__all__ = ["SCRAM_BETWEEN", "ServerTls", "certified_name", "server_tls"]

SCRAM_BETWEEN = (
    "both tls and upstream.url may encrypt, and auth.mode is relay: SCRAM logins of clients with channel binding (psql and psycopg, unless "
    'channel_binding=disable) then end in "SCRAM channel binding check failed"; set auth.mode = scram, or sslmode=disable where the way '
    "to the database is safe"
)
"""Said at the start: no rewriting of what is relayed helps, since the server tells apart "cannot" and "was not offered"."""

_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True, slots=True)
class ServerTls:
    """What we offer clients.  `end_point` is our certificate's hash for channel binding, None where it has none."""

    context: ssl.SSLContext
    required: bool
    end_point: bytes | None


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
    load_chain(context, settings.certificate, settings.key, "tls.certificate")
    if settings.client_ca is not None:
        load_roots(context, settings.client_ca, "tls.client_ca")
        context.verify_mode = ssl.CERT_REQUIRED if settings.client_certificates == "require" else ssl.CERT_OPTIONAL
    return ServerTls(context, settings.mode == "require", leaf_end_point(settings.certificate, "tls.certificate"))


def certified_name(peer: ssl.SSLObject | None) -> bytes | None:
    """The common name in the certificate that a client has shown; None without one, or with several names."""
    subject: Any = (peer.getpeercert() if peer is not None else None) or {}
    names = [value for group in subject.get("subject", ()) for key, value in group if key == "commonName"]
    return names[0].encode() if len(names) == 1 else None
