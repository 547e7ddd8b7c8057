"""Certificates for tests: an authority, and what it signs."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

__all__ = ["Authority", "Pair"]


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """One that signs; `file` is its own certificate."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder = folder
        self.file = folder / f"{name}.crt"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        extension = x509.BasicConstraints(ca=True, path_length=None)
        made = _builder(self._name, self._name, self._key, 365).add_extension(extension, critical=True)
        self.file.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def sign(self, name: str, hosts: tuple[str, ...] = (), *, days: float = 365, password: str | None = None) -> Pair:
        """A certificate for `name`, with `hosts` (names or addresses) as alternative names; `password` is that of the key's file."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _builder(_named(name), self._name, key, days)
        if hosts:
            made = made.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        pair = Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        pair.certificate.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        encryption = NoEncryption() if password is None else BestAvailableEncryption(password.encode())
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        pair.key.chmod(0o600)
        return pair

    def revoke(self, *pairs: Pair, days: float = 7) -> Path:
        """A list of revoked certificates with those of `pairs`, the file `revoked.crl`."""
        now = datetime.datetime.now(datetime.UTC)
        update = now + datetime.timedelta(days=days)
        made = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        made = made.last_update(min(now, update) - datetime.timedelta(days=1)).next_update(update)
        for pair in pairs:
            number = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).serial_number
            made = made.add_revoked_certificate(x509.RevokedCertificateBuilder().serial_number(number).revocation_date(now).build())
        file = self.folder / "revoked.crl"
        file.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        return file


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, until) - datetime.timedelta(days=1))
        .not_valid_after(until)
    )
