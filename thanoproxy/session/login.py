"""What a login needs of us before bytes just flow.

Mostly nothing: PostgreSQL's own messages pass (trust, password, md5, SCRAM).  Two things cannot:

- SCRAM's channel binding (`-PLUS`) is about one encrypted connection, so the server must not offer it to a client whose own leg is
  plain: `relay_login` takes the offer out.
- Where both legs are encrypted, a client that supports channel binding finds that what it is offered does not fit what it sees.
  Then the proxy must be the server it sees: `scram_login` checks the client itself and logs in with the client's own keys.

https://www.postgresql.org/docs/18/sasl-authentication.html
"""

from __future__ import annotations

import logging

from thanoproxy.errors import FeatureNotSupported, InvalidAuthorization, InvalidPassword, ProtocolViolation, ThanoError, UpstreamUnavailable
from thanoproxy.session.door import refusal
from thanoproxy.session.leg import Leg, TooLong
from thanoproxy.session.verifiers import Verifiers
from thanoproxy.tls.files import end_point
from thanoproxy.wire.messages import message
from thanoproxy.wire.scram import LARGEST, PLUS, Acceptor, Initiator, Keys
from thanoproxy.wire.startup import Startup

__all__ = ["relay_login", "scram_login"]

_log = logging.getLogger(__name__)

_AUTHENTICATION, _NOTICE, _NEGOTIATE, _ERROR, _PASSWORD = b"RNvEp"
_OK, _SASL, _SASL_CONTINUE, _SASL_FINAL = 0, 10, 11, 12
_LARGEST_ANSWER = 30000
"""Bytes of a message from the server; its notices may be long, what libpq accepts of authentication is 2,000."""


async def relay_login(client: Leg, upstream: Leg) -> None:
    """Let the client log in at the server: nothing is to be done but where the server's leg alone is encrypted."""
    if client.tls or not upstream.tls:
        return
    passed = b""
    while True:
        try:
            kind, body = await upstream.message(_LARGEST_ANSWER)
        except (TooLong, OSError):
            break  # a goodbye in the protocol of 1998, or none: the client shall see it as it is
        if kind == _AUTHENTICATION and _code(body) == _SASL:
            names = [name for name in _mechanisms(body) if name != PLUS]
            body = _SASL.to_bytes(4, "big") + b"".join(name + b"\0" for name in names) + b"\0"
        passed += message(bytes([kind]), body)
        if kind not in (_NOTICE, _NEGOTIATE):
            break
    upstream.unread(passed)


async def scram_login(client: Leg, upstream: Leg, startup: Startup, verifiers: Verifiers, certificate: bytes | None) -> None:
    """Check the client, log in at the server with its keys; what is left to relay begins with AuthenticationOk, or is an error.

    `certificate` is the hash of the certificate that the client saw.  Raises `Refused`, or `OSError` where the client hangs up.
    """
    try:
        kind, body = await _answer(client, upstream)
    except UpstreamUnavailable as error:
        raise refusal(error) from None
    if kind != _AUTHENTICATION:
        upstream.unread(message(bytes([kind]), body))
        return
    if _code(body) not in (_OK, _SASL):
        # Never the answer to give a client before it has proved who it is; the operator sees it, too.
        _log.warning("auth.mode scram: the server asks %s for something else than SCRAM (%d)", startup.user, _code(body))
        raise refusal(FeatureNotSupported("the database server wants a kind of login that the proxy cannot do for its clients"))
    try:
        acceptor = Acceptor(await verifiers.find(startup.user), certificate)
        keys, farewell = await _accept(client, acceptor)
        if _code(body) == _SASL:
            kind, body = await _initiate(client, upstream, Initiator(keys, _end_point(upstream)), _mechanisms(body))
    except InvalidPassword as error:
        _log.info('login of "%s": %s', startup.user, error.message)
        raise refusal(InvalidPassword(f'password authentication failed for user "{startup.user}"')) from None
    except UpstreamUnavailable as error:
        _log.warning("%s", error.message)
        raise refusal(UpstreamUnavailable("cannot check the password: the database server does not answer")) from None
    except ThanoError as error:
        raise refusal(error) from None
    if kind == _AUTHENTICATION:
        await client.write(farewell)
    upstream.unread(message(bytes([kind]), body))


async def _accept(client: Leg, acceptor: Acceptor) -> tuple[Keys, bytes]:
    """The client's keys, and the last SASL message that it still has to get."""
    offer = b"".join(name + b"\0" for name in acceptor.mechanisms) + b"\0"
    await client.write(_authentication(_SASL, offer))
    mechanism, _, rest = (await _response(client)).partition(b"\0")
    if len(rest) < 4 or int.from_bytes(rest[:4], "big") != len(rest) - 4:
        raise ProtocolViolation("invalid SASLInitialResponse message")
    await client.write(_authentication(_SASL_CONTINUE, acceptor.first(mechanism, rest[4:])))
    answer, keys = acceptor.final(await _response(client))
    return keys, _authentication(_SASL_FINAL, answer)


async def _response(client: Leg) -> bytes:
    try:
        kind, body = await client.message(LARGEST)
    except TooLong:
        raise ProtocolViolation("expected SASL response, got a message that is none") from None
    if kind != _PASSWORD:
        raise ProtocolViolation(f"expected SASL response, got message type {kind}")
    return body


async def _initiate(client: Leg, upstream: Leg, initiator: Initiator, mechanisms: list[bytes]) -> tuple[int, bytes]:
    """Log in; the server's AuthenticationOk, or what it says instead."""
    mechanism, first = initiator.first(mechanisms)
    await _send(upstream, mechanism + b"\0" + len(first).to_bytes(4, "big") + first)
    kind, body = await _answer(client, upstream)
    if kind != _AUTHENTICATION:
        return kind, body
    _expect(body, _SASL_CONTINUE)
    await _send(upstream, initiator.final(body[4:]))
    kind, body = await _answer(client, upstream)
    if kind != _AUTHENTICATION:
        return kind, body
    _expect(body, _SASL_FINAL)
    initiator.check(body[4:])
    kind, body = await _answer(client, upstream)
    if kind == _AUTHENTICATION:
        _expect(body, _OK)
    return kind, body


async def _answer(client: Leg, upstream: Leg) -> tuple[int, bytes]:
    """The server's next message that is about the login; what may come in between is passed on."""
    while True:
        try:
            kind, body = await upstream.message(_LARGEST_ANSWER)
        except TooLong:
            raise UpstreamUnavailable("the database server does not speak the protocol") from None
        except OSError as problem:
            raise UpstreamUnavailable(f"the database server is gone: {problem}") from problem
        if kind not in (_NOTICE, _NEGOTIATE):
            break
        await client.write(message(bytes([kind]), body))
    if kind not in (_AUTHENTICATION, _ERROR) or (kind == _AUTHENTICATION and len(body) < 4):
        raise UpstreamUnavailable("the database server does not speak the protocol")
    return kind, body


async def _send(upstream: Leg, body: bytes) -> None:
    try:
        await upstream.write(message(b"p", body))
    except OSError as problem:
        raise UpstreamUnavailable(f"the database server is gone: {problem}") from problem


def _expect(body: bytes, code: int) -> None:
    if _code(body) != code:
        raise InvalidAuthorization("the database server did not keep to the order of a SCRAM login")


def _end_point(upstream: Leg) -> bytes | None:
    if upstream.ssl_object is None:
        return None
    certificate = upstream.ssl_object.getpeercert(binary_form=True)
    return None if certificate is None else end_point(certificate)


def _authentication(code: int, data: bytes) -> bytes:
    return message(b"R", code.to_bytes(4, "big") + data)


def _code(body: bytes) -> int:
    return int.from_bytes(body[:4], "big")


def _mechanisms(body: bytes) -> list[bytes]:
    return [name for name in body[4:].split(b"\0") if name]
