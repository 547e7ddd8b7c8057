"""The seal on a catalogue row: an HMAC by the proxy over the owner and name that it was made with, version and artifact.

Any role may write rows of its own, so without a seal it could name the weights of somebody else's model in one.  The key lies
beside the weights and never enters the database.  How a row came from that owner and name to those of today is the database's to
vouch for: it lets a row in only where the two are the same, and only the owner give it away (migrations/0004_life.sql).

Classes, options and metrics are not sealed: those that count are read from the artifact's manifest, which its content hash vouches
for.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

import msgspec

from thanoproxy.catalog.records import ModelRecord
from thanoproxy.errors import ConfigurationError, InsufficientPrivilege

__all__ = ["KEY_FILE", "Seal", "open_seal"]

KEY_FILE = "seal.key"
KEY_BYTES = 32


class Seal:
    """Signs and verifies records with one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, record: ModelRecord) -> ModelRecord:
        """`record` with its mac."""
        return msgspec.structs.replace(record, mac=self._mac(record))

    def verify(self, record: ModelRecord) -> None:
        """Raises `InsufficientPrivilege` where the row is not one that a proxy with this key wrote.

        That is the row's fault and not the weights': they may be fine, but nothing says that this model may use them.
        """
        if not hmac.compare_digest(self._mac(record), record.mac):
            raise InsufficientPrivilege(
                f'model "{record.name}" version {record.version} does not carry the seal of this proxy',
                detail="Its row in thanosql.model_version was not written by BUILD MODEL here, or was changed since.",
                hint=f"After a restore, the artifact folder needs its old {KEY_FILE}, too; without it, build the model again.",
            )

    def derive(self, purpose: str) -> bytes:
        """Another secret, for `purpose` only, that all who share the key share, too."""
        return hmac.digest(self._key, purpose.encode(), hashlib.sha256)  # what is signed begins with a length, never with a letter

    def _mac(self, record: ModelRecord) -> bytes:
        owner = record.owner if record.sealed_owner is None else record.sealed_owner
        name = record.name if record.sealed_name is None else record.sealed_name
        return hmac.digest(self._key, sealed_bytes(owner, name, record.version, record.artifact), hashlib.sha256)


def sealed_bytes(owner: str, name: str, version: int, artifact: str) -> bytes:
    """What is signed: each part with its length before it, so that no two records give the same bytes."""
    parts = ("thanoproxy model 1", owner, name, str(version), artifact)
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return b"".join(len(part).to_bytes(8, "big") + part for part in encoded)


def open_seal(folder: Path) -> Seal:
    """The seal whose key lies in `folder`; the first caller makes the key.  Raises `ConfigurationError`."""
    path = folder / KEY_FILE
    try:
        if not path.exists():
            _make_key(path)
        key = path.read_bytes()
        shared = path.stat().st_mode & 0o077
    except OSError as error:
        raise ConfigurationError(f"artifacts.url: cannot use the key {path}: {error.strerror}") from error
    if len(key) != KEY_BYTES:
        raise ConfigurationError(f"artifacts.url: the key {path} should have {KEY_BYTES} bytes, it has {len(key)}")
    if shared:
        raise ConfigurationError(f"artifacts.url: the key {path} can be read by others; chmod 600 it")
    return Seal(key)


def _make_key(path: Path) -> None:
    """Write a new key whole, then give it its name; where another process was faster, its key stays."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)
