"""PEM files: certificates, keys, authorities, lists of revoked certificates.

Whatever keeps one from being used is a `ConfigurationError` that names the setting and the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import ssl
import warnings
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from thanoproxy.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["Lifetime", "end_point", "leaf_end_point", "lifetimes", "load_chain", "load_revoked", "load_roots", "revoked_until"]

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class Lifetime:
    """From when until when the certificate of `name` is valid."""

    name: str
    begin: datetime
    end: datetime


def load_chain(context: ssl.SSLContext, certificate: Path, key: Path | None, setting: str, password: str = "") -> None:
    """Our certificate, what it is signed by, and its key, which may stand in the same file."""

    def told() -> str:
        # Without this OpenSSL asks at the terminal, which a service does not have.
        if not password:
            raise ValueError("the key is encrypted")
        return password

    try:
        context.load_cert_chain(certificate, key, told)
    except (OSError, ValueError) as problem:
        raise _unusable(setting, problem, f"{certificate}{f' with key {key}' if key else ''}") from problem


def load_roots(context: ssl.SSLContext, file: Path, setting: str) -> None:
    """The authorities whose certificates are believed."""
    try:
        context.load_verify_locations(file)
    except OSError as problem:
        raise _unusable(setting, problem, file) from problem


def load_revoked(context: ssl.SSLContext, file: Path, setting: str) -> None:
    """What the authorities have revoked.  A certificate in this file would become an authority; so there may be none."""
    before = context.cert_store_stats()
    try:
        context.load_verify_locations(file)
    except OSError as problem:
        raise _unusable(setting, problem, file) from problem
    after = context.cert_store_stats()
    if after["x509"] != before["x509"] or after["crl"] == before["crl"]:
        raise ConfigurationError(f"{setting}: cannot use {file}: it should hold lists of revoked certificates and nothing else")
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def lifetimes(file: Path, setting: str) -> list[Lifetime]:
    """Of each certificate in `file`, in their order, but for those that only OpenSSL can read: very old authorities in a bundle."""
    from cryptography import x509
    from cryptography.utils import CryptographyDeprecationWarning

    found = []
    for certificate in _certificates(file, setting):
        with contextlib.suppress(ValueError), warnings.catch_warnings(action="ignore", category=CryptographyDeprecationWarning):
            one = x509.load_der_x509_certificate(certificate)
            found.append(Lifetime(_name(one), one.not_valid_before_utc, one.not_valid_after_utc))
    return found


def revoked_until(file: Path, setting: str) -> datetime | None:
    """When the first list of revoked certificates in `file` is to be replaced, if it says so."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_crl(file.read_bytes()).next_update_utc
    except (OSError, ValueError) as problem:
        raise _unusable(setting, problem, file) from problem


def leaf_end_point(file: Path, setting: str) -> bytes | None:
    """`end_point` of the first certificate in `file`."""
    try:
        return end_point(_certificates(file, setting)[0])
    except ValueError as problem:
        raise _unusable(setting, problem, file) from problem


def end_point(certificate: bytes) -> bytes | None:
    """The hash of a DER certificate as `tls-server-end-point` has it (RFC 5929, section 4.1).

    None where the signature has no hash of its own (Ed25519), for which that RFC defines nothing.
    """
    from cryptography import x509  # here and above, since it takes 50 ms and only encrypted legs need it

    algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    if algorithm is None:
        return None
    name = "sha256" if algorithm.name in ("md5", "sha1") else algorithm.name
    return hashlib.new(name, certificate).digest()


def _certificates(file: Path, setting: str) -> list[bytes]:
    """All that are in `file`, each as DER; at least one."""
    try:
        found = [ssl.PEM_cert_to_DER_cert(text) for text in _PEM.findall(file.read_text("ascii", "replace"))]
    except (OSError, ValueError) as problem:
        raise _unusable(setting, problem, file) from problem
    if not found:
        raise ConfigurationError(f"{setting}: cannot use {file}: there is no certificate in it")
    return found


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or f"serial number {certificate.serial_number:x}"


def _unusable(setting: str, problem: Exception, file: Path | str) -> ConfigurationError:
    reason = (problem.strerror if isinstance(problem, OSError) else None) or str(problem)
    return ConfigurationError(f"{setting}: cannot use {file}: {reason}")
