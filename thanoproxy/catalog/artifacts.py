"""Trained models as files: safetensors and a JSON manifest, named by what is in them.

    <root>/manifests/<id>.json              id = sha256 of these bytes
    <root>/weights/<sha256>.safetensors     its sha256 and length are in the manifest

So the id that a catalogue row carries vouches for every byte: nobody can change the weights, the classes or the preprocessing of
an artifact without changing its name, and that is checked on every load.  Two artifacts with the same weights share a file.

Files are written whole before they are named: to a temporary name, fsync, rename, fsync of the folder; the weights before the
manifest that needs them.  A crash leaves temporary files at worst, which `sweep_temporary` removes.

`Files` is all that a store has to offer, with keys as above; another kind of store (s3://) is another class with these verbs
and one line in `_STORES`.  Bytes in, bytes out: what a tensor is, is not known here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

import msgspec

from thanoproxy.errors import ArtifactCorrupt, ConfigurationError, writing

__all__ = ["ArtifactStore", "Files", "Folder", "Manifest", "Saved", "open_store"]

FORMAT = 1
_STALE_SECONDS = 24 * 3600
_TEMPORARY = ".tmp-"
_FOLDERS = ("manifests", "weights")


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is besides its weights.  `preprocessing` is `thanoproxy.models.preprocessing.Preprocessing` as plain data.

    Its scores are divided by `temperature` before they are probabilities; artifacts from before that was measured have none.
    """

    architecture: str
    classes: list[str]
    preprocessing: dict[str, Any]
    metrics: dict[str, float | None]
    options: dict[str, Any]
    weights_sha256: str
    weights_bytes: int
    created_at: float
    temperature: float = 1.0
    software: dict[str, str] = {}
    format: int = FORMAT


class Saved(NamedTuple):
    """An artifact's id, and how many bytes it takes."""

    id: str
    size_bytes: int


class Files(Protocol):
    """Named bytes that survive a crash once `put` has returned."""

    def put(self, key: str, data: bytes) -> None: ...

    def try_out(self) -> None:
        """Raises `OSError` where `put` surely would."""

    def get(self, key: str) -> bytes:
        """Raises `FileNotFoundError`."""

    def has(self, key: str) -> bool: ...

    def stamp(self, key: str) -> object:
        """Something that compares unequal once the content may have changed; None if there is no such key."""

    def delete(self, key: str) -> None:
        """No error if there is none."""

    def keys(self, folder: str) -> Iterator[tuple[str, float]]:
        """Key and time of last change, in seconds since the epoch, of everything in `folder`."""

    def sweep_temporary(self) -> None:
        """Remove what a crash left half written."""


class Folder:
    """A folder on this machine, made when it is first written to, readable by its owner alone."""

    def __init__(self, root: str) -> None:
        self.root = root

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        folder = os.path.dirname(path)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        _fsync_folder(folder)

    def try_out(self) -> None:
        for folder in _FOLDERS:
            path = self._path(folder)
            while not os.path.exists(path):  # it is made in the one above
                path = os.path.dirname(path)
            with tempfile.TemporaryFile(dir=path):
                pass

    def get(self, key: str) -> bytes:
        with open(self._path(key), "rb") as file:
            return file.read()

    def has(self, key: str) -> bool:
        return os.path.exists(self._path(key))

    def stamp(self, key: str) -> object:
        try:
            status = os.stat(self._path(key))
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(key))

    def keys(self, folder: str) -> Iterator[tuple[str, float]]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self._path(folder)) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    yield f"{folder}/{entry.name}", entry.stat().st_mtime

    def sweep_temporary(self, older_than: float = _STALE_SECONDS) -> None:
        """Remove what a crash left half written more than `older_than` seconds ago."""
        for folder in _FOLDERS:
            with contextlib.suppress(FileNotFoundError), os.scandir(self._path(folder)) as entries:
                for entry in entries:
                    if entry.name.startswith(_TEMPORARY) and entry.stat().st_mtime < time.time() - older_than:
                        os.unlink(entry.path)

    def _path(self, key: str) -> str:
        return os.path.join(self.root, key)


def _fsync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class ArtifactStore:
    """Artifacts in `files`, each verified whenever it is read."""

    def __init__(self, files: Files) -> None:
        self.files = files

    def save(
        self,
        weights: bytes,
        *,
        architecture: str,
        classes: list[str],
        preprocessing: dict[str, Any],
        metrics: dict[str, float | None],
        options: dict[str, Any],
        software: dict[str, str],
        temperature: float = 1.0,
    ) -> Saved:
        """Write an artifact durably; it is there, whole, once this returns.  Raises `FileFailure`."""
        digest = hashlib.sha256(weights).hexdigest()
        manifest = Manifest(
            architecture=architecture,
            classes=classes,
            preprocessing=preprocessing,
            metrics=metrics,
            options=options,
            weights_sha256=digest,
            weights_bytes=len(weights),
            created_at=time.time(),
            software=software,
            temperature=temperature,
        )
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        identity = hashlib.sha256(text).hexdigest()
        with _writing():
            # Written even where a file of that name is there: it may be damaged, and this heals it.
            self.files.put(_weights_key(digest), weights)
            self.files.put(_manifest_key(identity), text)
            if not self.files.has(_weights_key(digest)):  # deleted in between, with another artifact of the same weights
                self.files.put(_weights_key(digest), weights)
        return Saved(identity, len(text) + len(weights))

    def try_out(self) -> None:
        """Raises `FileFailure` where nothing could be saved, which is better known before a training than after it."""
        with _writing():
            self.files.try_out()

    def manifest(self, identity: str) -> Manifest:
        """What artifact `identity` is, without its weights.  Raises `ArtifactCorrupt`."""
        try:
            manifest = msgspec.json.decode(self.document(identity), type=Manifest)
        except msgspec.DecodeError as error:
            raise _corrupt(identity, f"its manifest cannot be read: {error}") from error
        if manifest.format != FORMAT:
            raise _corrupt(identity, f"its format is {manifest.format}, and this version of thanoproxy reads {FORMAT}")
        return manifest

    def document(self, identity: str) -> bytes:
        """The manifest as it was written: its sha256 is `identity`.  Raises `ArtifactCorrupt`."""
        _require_identity(identity)
        text = self._get(_manifest_key(identity), identity, "manifest")
        if hashlib.sha256(text).hexdigest() != identity:
            raise _corrupt(identity, "its manifest is not the one that was written (sha256 differs)")
        return text

    def weights(self, identity: str, manifest: Manifest) -> bytes:
        """The weights of artifact `identity`, as safetensors.  Raises `ArtifactCorrupt`."""
        data = self._get(_weights_key(manifest.weights_sha256), identity, "weights")
        if len(data) != manifest.weights_bytes:
            raise _corrupt(identity, f"its weights have {len(data)} bytes and should have {manifest.weights_bytes}")
        if hashlib.sha256(data).hexdigest() != manifest.weights_sha256:
            raise _corrupt(identity, "its weights are not the ones that were written (sha256 differs)")
        return data

    def stamp(self, identity: str) -> object:
        """Compares unequal once a file of artifact `identity` may have changed.  Raises `ArtifactCorrupt` as `manifest` does."""
        digest = self.manifest(identity).weights_sha256
        return self.files.stamp(_manifest_key(identity)), self.files.stamp(_weights_key(digest))

    def delete(self, identity: str) -> None:
        """Remove an artifact; its weights too, unless another manifest names them.  No error if it is not there."""
        try:
            digest = self.manifest(identity).weights_sha256
        except ArtifactCorrupt:
            digest = None
        self.files.delete(_manifest_key(identity))
        if digest is not None and all(self._digest(other) != digest for other, _ in self.identities()):
            self.files.delete(_weights_key(digest))

    def identities(self) -> Iterator[tuple[str, float]]:
        """Every artifact's id and when it was written, in seconds since the epoch."""
        for key, changed in self.files.keys("manifests"):
            yield key.removeprefix("manifests/").removesuffix(".json"), changed

    def _digest(self, identity: str) -> str | None:
        try:
            return self.manifest(identity).weights_sha256
        except ArtifactCorrupt:
            return None

    def _get(self, key: str, identity: str, what: str) -> bytes:
        try:
            return self.files.get(key)
        except FileNotFoundError:
            raise _corrupt(identity, f"its {what} file is missing from the artifact store") from None
        except OSError as error:
            raise _corrupt(identity, f"its {what} file cannot be read: {error.strerror}") from error


def open_store(url: str) -> ArtifactStore:
    """The store at `url` (`file:///folder`, or just a path).  Raises `ConfigurationError` for a scheme that is not known."""
    scheme = urlsplit(url).scheme or "file"
    make = _STORES.get(scheme)
    if make is None:
        raise ConfigurationError(f"artifact store {url!r}: scheme {scheme!r} is not known", hint="Known: " + ", ".join(_STORES))
    return ArtifactStore(make(url))


def _open_folder(url: str) -> Folder:
    parts = urlsplit(url)
    path = unquote(parts.path) if parts.scheme else url
    if parts.netloc not in ("", "localhost") or not path:
        raise ConfigurationError(f"artifact store {url!r} is no folder", hint="Write file:///absolute/folder.")
    return Folder(os.path.abspath(path))


_STORES: dict[str, Callable[[str], Files]] = {"file": _open_folder}


def _manifest_key(identity: str) -> str:
    return f"manifests/{identity}.json"


def _weights_key(digest: str) -> str:
    return f"weights/{digest}.safetensors"


def _require_identity(identity: str) -> None:
    # The id comes from a catalogue row: it must never be able to name a file elsewhere.
    if len(identity) != 64 or not set(identity) <= set("0123456789abcdef"):
        raise ArtifactCorrupt(f"{identity[:80]!r} is no artifact id")


def _writing() -> AbstractContextManager[None]:
    return writing(
        "the weights of the model cannot be written",
        hint="They go where the setting artifacts.url says: see that there is room, and that the proxy may write there.",
    )


def _corrupt(identity: str, why: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(
        f"model artifact {identity[:12]}… cannot be used: {why}",
        hint="Restore the artifact store from a backup, or BUILD the model again with overwrite=true.",
    )
