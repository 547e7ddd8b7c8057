"""What happens on a new socket before there is a session: encryption requests, cancel requests, the StartupMessage.

All of it is read exactly, packet by packet, so nothing that arrived in plaintext can later be taken for decrypted data
(CVE-2021-23214), and a packet's claimed length is checked before anything is allocated for it.
"""

from __future__ import annotations

from thanoproxy.errors import FeatureNotSupported, InvalidAuthorization, ProtocolViolation, ThanoError
from thanoproxy.session.leg import Leg
from thanoproxy.tls.clients import ServerTls
from thanoproxy.tls.handshake import ALPN
from thanoproxy.wire import messages
from thanoproxy.wire.startup import GSSENC_REQUEST, SSL_REQUEST, Cancel, Startup, packet_size, read_packet

__all__ = ["Refused", "greet", "refusal"]

_HANDSHAKE = 0x16
"""A TLS record of type handshake; no length of a start-up packet begins with it."""


class Refused(Exception):
    """The connection ends here; `reply` is the last that the client is told."""

    def __init__(self, reply: bytes = b"") -> None:
        super().__init__()
        self.reply = reply


def refusal(error: ThanoError) -> Refused:
    return Refused(messages.error_response(error, "FATAL"))


async def greet(leg: Leg, tls: ServerTls | None) -> Startup | Cancel:
    """The client's StartupMessage or CancelRequest, with `leg` encrypted if client and settings want it so.

    Raises `Refused` for anything else, `OSError` where the client hangs up or its handshake fails.
    """
    seen = set[int]()
    if tls is not None and await leg.peek() == _HANDSHAKE:
        await leg.accept_tls(tls.context)
        if leg.ssl_object is None or leg.ssl_object.selected_alpn_protocol() != ALPN:
            raise Refused  # another protocol's client, sent here by somebody in the middle
        seen = {SSL_REQUEST, GSSENC_REQUEST}
    while True:
        request = read_packet(await _read_packet(leg))
        if isinstance(request, Startup) and tls is not None and tls.required and not leg.tls:
            raise refusal(_unencrypted(request))
        if not isinstance(request, int):
            return request
        if request in seen:
            # A second one is taken for a protocol version, as by the server's ProcessStartupPacket.
            version = f"{request >> 16}.{request & 0xFFFF}"
            raise refusal(FeatureNotSupported(f"unsupported frontend protocol {version}"))
        seen.add(request)
        if leg.waiting():
            what = "SSL" if request == SSL_REQUEST else "GSSAPI encryption"
            error = ProtocolViolation(f"received unencrypted data after {what} request")
            raise Refused(b"N" + messages.error_response(error, "FATAL"))
        if request == SSL_REQUEST and tls is not None:
            await leg.write(b"S")
            await leg.accept_tls(tls.context)
            seen = {SSL_REQUEST, GSSENC_REQUEST}
        else:
            await leg.write(b"N")


async def _read_packet(leg: Leg) -> bytes:
    head = await leg.exactly(4)
    size = packet_size(head)
    if size is None:
        raise Refused
    return head + await leg.exactly(size - 4)


def _unencrypted(startup: Startup) -> InvalidAuthorization:
    # The server's own words end in "no encryption", too (auth.c), and drivers with sslmode=allow go by the code.
    return InvalidAuthorization(
        f'connections without encryption are refused: user "{startup.user}", database "{startup.database}", no encryption',
        hint="Connect with sslmode=require.",
    )
