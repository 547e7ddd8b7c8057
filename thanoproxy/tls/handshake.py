"""A TLS handshake with a client, with what Python's `ssl` under an event loop leaves out.

- The alert that says why a handshake failed stays in a buffer, since the loop then only closes the socket.  `HandshakeError` has it.
- A client that names protocols by ALPN, but not ours, is to be refused with an alert (RFC 7301; `alpn_cb` in the server's
  be-secure-openssl.c).  `ssl` takes such a client for one that names none, and says nothing of what it offered.
"""

from __future__ import annotations

import ssl

from thanoproxy.wire.clienthello import NO_APPLICATION_PROTOCOL, offered_protocols

__all__ = ["ALPN", "HandshakeError", "ServerContext"]

ALPN = "postgresql"


class HandshakeError(ssl.SSLError):
    """A handshake that came to nothing; `alert` is what the client should still be sent."""

    def __init__(self, reason: str, alert: bytes) -> None:
        super().__init__(ssl.SSL_ERROR_SSL, reason)
        self.alert = alert


class _Attended(ssl.SSLObject):
    """The server's end of one connection; what is read and written once the handshake is done goes the usual way."""

    def attend(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._hello: bytes | None = b""

    def do_handshake(self) -> None:
        if self._hello is not None:
            self._hello = self._look(self._hello)
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLSyscallError):
            raise
        except ssl.SSLError as problem:
            raise HandshakeError(problem.reason or str(problem), self._outgoing.read()) from problem

    def _look(self, hello: bytes) -> bytes | None:
        """What has come of the ClientHello so far; None once there is nothing more to look for."""
        arrived = self._incoming.read()
        self._incoming.write(arrived)
        try:
            names = offered_protocols(hello + arrived)
        except ValueError:
            return None
        if names and ALPN.encode() not in names:
            raise HandshakeError("no application protocol", NO_APPLICATION_PROTOCOL)
        return hello + arrived if names is None else None


class ServerContext(ssl.SSLContext):
    """The context of connections with clients."""

    sslobject_class = _Attended

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        wrapped = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        assert isinstance(wrapped, _Attended), "it is our class"
        wrapped.attend(incoming, outgoing)
        return wrapped
