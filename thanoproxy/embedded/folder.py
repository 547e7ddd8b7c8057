"""The folder of an embedded PostgreSQL: made, locked, and its password kept, without changing the mode of what was there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from thanoproxy.embedded.account import Account
from thanoproxy.errors import ConfigurationError

__all__ = ["hold", "make_folder", "password_path", "temporary_directory", "write_secret"]


def password_path(directory: Path) -> Path:
    """Where the password of the cluster in `directory` lies: beside it, or inside of it where that cannot be."""
    beside, inside = directory.with_name(directory.name + ".password"), directory / "password"
    if beside.exists() or (not inside.exists() and _may_write(directory.parent)):
        return beside
    return inside


def _may_write(folder: Path) -> bool:
    """Whether files can be made in `folder`, or in the nearest folder above that is there already."""
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)


def make_folder(folder: Path, account: Account) -> None:
    """Make `folder` and those above it; what we make ourselves `account` may enter, whatever the umask says."""
    try:
        for step in (*reversed(folder.parents), folder):
            if not step.exists():
                step.mkdir(exist_ok=True)
                if account.other:
                    step.chmod(0o711)
    except OSError as error:
        raise ConfigurationError(f"--embedded: cannot make the folder {folder}: {error.strerror}") from error
    if not folder.is_dir():
        raise ConfigurationError(f"--embedded: {folder} is not a folder")


def hold(path: Path) -> IO[str]:
    """Lock the file `path` for as long as it stays open.  Raises `ConfigurationError` where another process holds it."""
    try:
        held = path.open("a+")
    except OSError as error:
        raise ConfigurationError(f"--embedded: cannot write to {path.parent}: {error.strerror}") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        held.seek(0)
        owner = held.read().strip() or "unknown"
        held.close()
        raise ConfigurationError(f"--embedded: {path.parent} is in use by another thanoproxy (process {owner})") from None
    held.truncate(0)
    held.write(f"{os.getpid()}\n")
    held.flush()
    return held


def write_secret(path: Path, text: str) -> None:
    """Write `path` whole, readable by its owner only, from the first byte on."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)
    except OSError as error:
        raise ConfigurationError(f"--embedded: cannot write the password file {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    os.replace(name, path)


@contextlib.contextmanager
def temporary_directory(prefix: str = "thanoproxy-") -> Iterator[Path]:
    """A new folder that goes with the block, and that the user who runs PostgreSQL may enter (but not list)."""
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder
