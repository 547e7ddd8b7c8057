"""SCRAM-SHA-256 from both ends, without I/O and without ever knowing a password (RFC 5802, RFC 7677).

A client proves that it knows ClientKey; whoever holds the verifier (StoredKey = H(ClientKey), and ServerKey) can check that, and from
the proof also learns ClientKey itself.  With that, and ServerKey, one can log in elsewhere as this client, as long as the verifier
there is the same: that is how a proxy in between logs in for its client.

    Acceptor    what a server says to a client
    Initiator   what a client says to a server

No password passes through here, so there is nothing to normalise: SASLprep is the client's, and the verifier's author's.
The user name within SASL is ignored, as PostgreSQL does (protocol.html, section SASL): that of the StartupMessage counts.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from thanoproxy.errors import InvalidAuthorization, InvalidPassword, ProtocolViolation

__all__ = ["LARGEST", "PLAIN", "PLUS", "Acceptor", "Initiator", "Keys", "Verifier", "mock_verifier"]

PLAIN, PLUS = b"SCRAM-SHA-256", b"SCRAM-SHA-256-PLUS"
LARGEST = 1024
"""Bytes of a message that is read at all (PG_MAX_SASL_MESSAGE_LENGTH); nonces are bounded by it."""

_BINDING = b"p=tls-server-end-point"
_NONCE_BYTES = 18
_ITERATIONS = 4096

_CLIENT_FIRST = re.compile(rb"(?P<flag>n|y|p=[A-Za-z0-9.-]+),(?P<identity>[^,]*),(?P<bare>n=[^,]*,r=(?P<nonce>[!-+\--~]+)(?:,.*)?)")
_CLIENT_FINAL = re.compile(rb"(?P<bare>c=(?P<binding>[A-Za-z0-9+/=]*),r=(?P<nonce>[!-+\--~]+)(?:,.*)?),p=(?P<proof>[A-Za-z0-9+/=]+)")
_SERVER_FIRST = re.compile(rb"r=(?P<nonce>[!-+\--~]+),s=(?P<salt>[A-Za-z0-9+/=]+),i=(?P<iterations>[0-9]{1,9})(?:,.*)?")
_SERVER_FINAL = re.compile(rb"v=(?P<signature>[A-Za-z0-9+/=]+)(?:,.*)?")
_VERIFIER = re.compile(r"SCRAM-SHA-256\$(?P<iterations>[0-9]{1,9}):(?P<salt>[^$]+)\$(?P<stored>[^:]+):(?P<server>.+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a server keeps of a password: pg_authid.rolpassword taken apart."""

    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes

    @classmethod
    def read(cls, text: str) -> Verifier | None:
        """None for what is no SCRAM verifier, such as an MD5 hash."""
        match = _VERIFIER.fullmatch(text)
        if match is None:
            return None
        try:
            salt, stored, server = (b64decode(match[name], validate=True) for name in ("salt", "stored", "server"))
        except (binascii.Error, ValueError):
            return None
        if len(stored) != 32 or len(server) != 32 or int(match["iterations"]) < 1:
            return None
        return cls(int(match["iterations"]), salt, stored, server)


@dataclass(frozen=True, slots=True)
class Keys:
    """What it takes to log in as a client: its ClientKey, recovered from a proof, and the verifier that the proof was good for."""

    client_key: bytes
    verifier: Verifier


def mock_verifier(secret: bytes, user: str, iterations: int = _ITERATIONS) -> Verifier:
    """For a user that is not there: always the same salt, as a real one would have, and keys that nothing fits.

    So a stranger cannot learn who is there (mock authentication, auth-scram.c); `secret` must outlive the process for that.
    """
    salt = hmac.digest(secret, user.encode("utf-8", "surrogateescape"), hashlib.sha256)[:16]
    return Verifier(iterations, salt, secrets.token_bytes(32), secrets.token_bytes(32))


class Acceptor:
    """The server's end.  `end_point` is our certificate's hash where the client's leg is encrypted and the hash exists."""

    def __init__(self, verifier: Verifier, end_point: bytes | None, nonce: bytes | None = None) -> None:
        self.mechanisms = (PLAIN,) if end_point is None else (PLUS, PLAIN)
        self._verifier = verifier
        self._end_point = end_point
        self._own_nonce = nonce or b64encode(secrets.token_bytes(_NONCE_BYTES))
        self._flag = b""
        self._header = b""
        self._nonce = b""
        self._talk = b""

    def first(self, mechanism: bytes, message: bytes) -> bytes:
        """Answer client-first-message."""
        if mechanism not in self.mechanisms:
            raise ProtocolViolation("client selected an invalid SASL authentication mechanism")
        match = _CLIENT_FIRST.fullmatch(message)
        if match is None:
            raise _malformed()
        if match["identity"]:
            raise InvalidAuthorization("client uses authorization identity, but it is not supported")
        self._check_flag(mechanism, match["flag"])
        self._flag = match["flag"]
        self._header = message[: match.start("bare")]
        self._nonce = match["nonce"] + self._own_nonce
        answer = b"r=%s,s=%s,i=%d" % (self._nonce, b64encode(self._verifier.salt), self._verifier.iterations)
        self._talk = match["bare"] + b"," + answer
        return answer

    def final(self, message: bytes) -> tuple[bytes, Keys]:
        """Answer client-final-message; also the keys that it gave away.  Raises `InvalidPassword`; why is for the log only."""
        match = _CLIENT_FINAL.fullmatch(message)
        if match is None:
            raise _malformed()
        proof = _decoded(match["proof"])
        if len(proof) != 32:
            raise _malformed()
        bound = (self._end_point or b"") if self._flag == _BINDING else b""
        if not hmac.compare_digest(match["binding"], b64encode(self._header + bound)):
            raise InvalidAuthorization("SCRAM channel binding check failed")
        if not hmac.compare_digest(match["nonce"], self._nonce):
            raise _malformed()
        talk = self._talk + b"," + match["bare"]
        client_key = _xor(proof, _mac(self._verifier.stored_key, talk))
        if not hmac.compare_digest(hashlib.sha256(client_key).digest(), self._verifier.stored_key):
            raise InvalidPassword("the password is wrong, or there is no such user with a SCRAM verifier that is valid now")
        return b"v=" + b64encode(_mac(self._verifier.server_key, talk)), Keys(client_key, self._verifier)

    def _check_flag(self, mechanism: bytes, flag: bytes) -> None:
        """RFC 5802, section 6: the flag must fit the mechanism, and `y` where we offered PLUS means that somebody took it away."""
        if (mechanism == PLUS) != flag.startswith(b"p="):
            raise _malformed()
        if flag.startswith(b"p=") and flag != _BINDING:
            raise ProtocolViolation(f"unsupported SCRAM channel-binding type {flag[2:40].decode('ascii', 'replace')!r}")
        if flag == b"y" and PLUS in self.mechanisms:
            raise InvalidAuthorization(
                "SCRAM channel binding negotiation error",
                detail="The client supports SCRAM channel binding but thinks the server does not. However, this server does support it.",
            )


class Initiator:
    """The client's end.  `end_point` is the hash of the server's certificate where that leg is encrypted."""

    def __init__(self, keys: Keys, end_point: bytes | None, nonce: bytes | None = None) -> None:
        self._keys = keys
        self._end_point = end_point
        self._own_nonce = nonce or b64encode(secrets.token_bytes(_NONCE_BYTES))
        self._header = b""
        self._bare = b""
        self._talk = b""
        self._bound = b""

    def first(self, mechanisms: Sequence[bytes]) -> tuple[bytes, bytes]:
        """The mechanism, of those that the server offers, and client-first-message."""
        if self._end_point is not None and PLUS in mechanisms:
            mechanism, self._header, self._bound = PLUS, _BINDING + b",,", self._end_point
        elif PLAIN in mechanisms:
            mechanism, self._header = PLAIN, b"n,," if self._end_point is None else b"y,,"
        else:
            raise ProtocolViolation("the server offers no SCRAM mechanism that is known here")
        self._bare = b"n=,r=" + self._own_nonce
        return mechanism, self._header + self._bare

    def final(self, server_first: bytes) -> bytes:
        """client-final-message.  Raises `InvalidPassword` where the server's verifier is another one than ours."""
        match = _SERVER_FIRST.fullmatch(server_first)
        if match is None or not match["nonce"].startswith(self._own_nonce) or match["nonce"] == self._own_nonce:
            raise _malformed()
        verifier = self._keys.verifier
        if (_decoded(match["salt"]), int(match["iterations"])) != (verifier.salt, verifier.iterations):
            # What it also answers for a password that has expired, so as to tell nobody (mock authentication).
            raise InvalidPassword("the database server keeps another verifier of this password, or takes it for expired")
        bare = b"c=%s,r=%s" % (b64encode(self._header + self._bound), match["nonce"])
        self._talk = b",".join((self._bare, server_first, bare))
        proof = _xor(self._keys.client_key, _mac(verifier.stored_key, self._talk))
        return bare + b",p=" + b64encode(proof)

    def check(self, server_final: bytes) -> None:
        """Whether the server knows the verifier, too.  Raises `InvalidAuthorization`."""
        match = _SERVER_FINAL.fullmatch(server_final)
        signature = b"" if match is None else _decoded(match["signature"])
        if not hmac.compare_digest(signature, _mac(self._keys.verifier.server_key, self._talk)):
            raise InvalidAuthorization("the database server does not know the user's verifier")


def _mac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, hashlib.sha256)


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _decoded(text: bytes) -> bytes:
    try:
        return b64decode(text, validate=True)
    except binascii.Error:
        raise _malformed() from None


def _malformed() -> ProtocolViolation:
    return ProtocolViolation("malformed SCRAM message")
