"""SCRAM, against the example of RFC 7677 and against itself."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode

import pytest

from thanoproxy.errors import InvalidAuthorization, InvalidPassword, ProtocolViolation, ThanoError
from thanoproxy.wire.scram import PLAIN, PLUS, Acceptor, Initiator, Keys, Verifier, mock_verifier

SALT = b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
NONCE = b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
FINAL = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="


def keys_of(password: bytes, salt: bytes = SALT, iterations: int = 4096) -> Keys:
    salted = hashlib.pbkdf2_hmac("sha256", password, salt, iterations)
    client_key, server_key = (hmac.digest(salted, name, "sha256") for name in (b"Client Key", b"Server Key"))
    return Keys(client_key, Verifier(iterations, salt, hashlib.sha256(client_key).digest(), server_key))


PENCIL = keys_of(b"pencil")


def test_the_example_of_rfc_7677() -> None:
    acceptor = Acceptor(PENCIL.verifier, None, NONCE)
    assert acceptor.first(PLAIN, FIRST) == b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    assert acceptor.final(FINAL) == (b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", PENCIL)


@pytest.mark.parametrize(
    ("offered", "seen", "mechanism"),
    [(None, None, PLAIN), (b"hash", b"hash", PLUS), (None, b"hash", PLAIN)],
)
def test_both_ends(offered: bytes | None, seen: bytes | None, mechanism: bytes) -> None:
    acceptor, initiator = Acceptor(PENCIL.verifier, offered), Initiator(PENCIL, seen)
    chosen, first = initiator.first(acceptor.mechanisms)
    assert chosen == mechanism
    answer, keys = acceptor.final(initiator.final(acceptor.first(chosen, first)))
    initiator.check(answer)
    assert keys == PENCIL


def talk(acceptor: Acceptor, initiator: Initiator) -> None:
    chosen, first = initiator.first(acceptor.mechanisms)
    initiator.check(acceptor.final(initiator.final(acceptor.first(chosen, first)))[0])


def test_somebody_in_the_middle_shows_another_certificate() -> None:
    with pytest.raises(InvalidAuthorization, match="channel binding check failed"):
        talk(Acceptor(PENCIL.verifier, b"ours"), Initiator(PENCIL, b"theirs"))


def test_somebody_in_the_middle_takes_the_offer_away() -> None:
    initiator = Initiator(PENCIL, b"hash")
    with pytest.raises(InvalidAuthorization, match="negotiation error"):
        Acceptor(PENCIL.verifier, b"hash").first(*initiator.first([PLAIN]))


def test_another_password() -> None:
    other = keys_of(b"pen")
    with pytest.raises(InvalidPassword):
        talk(Acceptor(PENCIL.verifier, None), Initiator(Keys(other.client_key, PENCIL.verifier), None))


def test_a_server_that_does_not_know_us() -> None:
    initiator = Initiator(PENCIL, None)
    stranger = Acceptor(Verifier(4096, SALT, PENCIL.verifier.stored_key, bytes(32)), None)
    with pytest.raises(InvalidAuthorization, match="does not know"):
        talk(stranger, initiator)


def test_another_salt_or_count_is_no_place_for_our_keys() -> None:
    for other in (keys_of(b"pencil", b"salt"), keys_of(b"pencil", SALT, 4097)):
        with pytest.raises(InvalidPassword):
            talk(Acceptor(other.verifier, None), Initiator(PENCIL, None))


def test_nobody_can_log_in_as_nobody() -> None:
    """... and the salt is always the same, as if somebody were there."""
    one, again, other = (mock_verifier(b"secret", user) for user in ("a", "a", "b"))
    assert one.salt == again.salt != other.salt
    assert len(one.salt) == 16
    with pytest.raises(InvalidPassword):
        talk(Acceptor(one, None), Initiator(Keys(PENCIL.client_key, one), None))


@pytest.mark.parametrize(
    ("mechanism", "message"),
    [
        (b"GSSAPI", FIRST),
        (PLUS, FIRST),
        (PLAIN, b""),
        (PLAIN, b"n,,n=user"),
        (PLAIN, b"n,,r=nonce"),
        (PLAIN, b"n,,n=user,r="),
        (PLAIN, b"n,,n=user,r=with space"),
        (PLAIN, b"n,a=other,n=user,r=nonce"),
        (PLAIN, b"n,,m=must,n=user,r=nonce"),
        (PLAIN, b"x,,n=user,r=nonce"),
        (PLAIN, b"p=tls-server-end-point,,n=user,r=nonce"),
        (PLAIN, b"\xff\x00"),
    ],
)
def test_first_messages_that_are_refused(mechanism: bytes, message: bytes) -> None:
    with pytest.raises(ThanoError):
        Acceptor(PENCIL.verifier, None).first(mechanism, message)


def test_a_binding_that_nobody_has() -> None:
    with pytest.raises(ProtocolViolation, match="tls-unique"):
        Acceptor(PENCIL.verifier, b"hash").first(PLUS, b"p=tls-unique,,n=user,r=nonce")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        FINAL.replace(b",p=", b",q="),
        FINAL.replace(b"rOprNGfwEbeRWgbNEkqO", b"sOprNGfwEbeRWgbNEkqO"),
        FINAL.replace(b"biws", b"eSws"),
        FINAL.replace(b"dHzb", b"dHz="),
        FINAL[:-5],
    ],
)
def test_final_messages_that_are_refused(message: bytes) -> None:
    acceptor = Acceptor(PENCIL.verifier, None, NONCE)
    acceptor.first(PLAIN, FIRST)
    with pytest.raises(ThanoError):
        acceptor.final(message)


@pytest.mark.parametrize(
    "message",
    [b"", b"r=own,s=c2FsdA==,i=4096", b"r=other,s=c2FsdA==,i=4096", b"r=own2,s=!,i=4096", b"r=own2,s=c2FsdA==,i=-1", b"e=other-error"],
)
def test_server_messages_that_are_refused(message: bytes) -> None:
    initiator = Initiator(PENCIL, None, b"own")
    initiator.first([PLAIN])
    with pytest.raises(ThanoError):
        initiator.final(message)


def test_read() -> None:
    text = f"SCRAM-SHA-256$4096:{b64encode(SALT).decode()}$" + ":".join(
        b64encode(key).decode() for key in (PENCIL.verifier.stored_key, PENCIL.verifier.server_key)
    )
    assert Verifier.read(text) == PENCIL.verifier
    for wrong in ("", "md5abc", text[:-4], text.replace("4096", "0"), text.replace("256", "512"), text + "\n"):
        assert Verifier.read(wrong) is None
