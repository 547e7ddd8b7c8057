"""EXPORT: an artifact as a new file of the user's, below the file roots.

It is written to a temporary name in the same folder and linked to its own: that fails where the name is taken, which a rename would
not, and nobody ever sees half of a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator

from thanoproxy.catalog.artifacts import ArtifactStore
from thanoproxy.engine.portable import Portable, whole
from thanoproxy.errors import DuplicateFile, FeatureNotSupported, FileFailure, FileUnavailable, InvalidOption
from thanoproxy.images.beneath import NotBeneath, Roots
from thanoproxy.workers import jobs

__all__ = ["ENDING", "export_model", "require_roots"]

ENDING = ".safetensors"
_MODE = 0o640
_PART = 8 * 1024 * 1024


def export_model(store: ArtifactStore, roots: Roots, request: jobs.Export, go_on: Callable[[], None]) -> jobs.Exported:
    """`go_on` raises once nobody wants the file any more.

    Raises `FileUnavailable`, `DuplicateFile`, `FileFailure`, `InvalidOption`, `FeatureNotSupported` or `ArtifactCorrupt`.
    """
    require_roots(roots, "EXPORT MODEL")
    if not request.file.endswith(ENDING):
        raise InvalidOption(f'file "{request.file}" is not called …{ENDING}', hint="That is the format models are exported in.")
    try:
        folder, name = roots.enter(request.file)
    except NotBeneath:
        raise FileUnavailable(f'the folder of "{request.file}" is not available', hint=_HINT) from None
    try:
        _refuse_existing(folder, name, request.file)  # before gigabytes are read
        manifest = store.manifest(request.artifact)
        file = whole(store.weights(request.artifact, manifest), store.document(request.artifact))
        return _write(folder, name, file, request, go_on)
    except OSError as error:
        raise FileFailure(f'file "{request.file}" cannot be written: {error.strerror}') from error
    finally:
        os.close(folder)


def require_roots(roots: Roots, statement: str) -> None:
    """Raises `FeatureNotSupported` where the operator has named no folder."""
    if not roots:
        raise FeatureNotSupported(
            f"{statement} has no folder to work in", hint="The setting files.roots names the folders that it may use; it is empty."
        )


_HINT = "Names are looked up below the file roots (setting files.roots); the folder must be there."


def _write(folder: int, name: str, file: Portable, request: jobs.Export, go_on: Callable[[], None]) -> jobs.Exported:
    digest, size = hashlib.sha256(), 0
    temporary = f".tmp-{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as out:
            for part in _parts(file):
                go_on()
                _write_all(out.fileno(), part)
                digest.update(part)
                size += len(part)
            os.fchmod(out.fileno(), _MODE)  # whatever the umask is
            os.fsync(out.fileno())
        go_on()
        try:
            os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except FileExistsError:
            raise _exists(request.file) from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
    os.fsync(folder)
    return jobs.Exported(request.job, size, digest.hexdigest())


def _parts(file: Portable) -> Iterator[memoryview]:
    yield memoryview(file.head)
    for at in range(file.start, len(file.weights), _PART):
        yield memoryview(file.weights)[at : at + _PART]


def _write_all(descriptor: int, part: memoryview) -> None:
    while part:
        part = part[os.write(descriptor, part) :]


def _refuse_existing(folder: int, name: str, shown: str) -> None:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    raise _exists(shown)


def _exists(shown: str) -> DuplicateFile:
    return DuplicateFile(f'file "{shown}" already exists', hint="EXPORT MODEL writes new files only.")
