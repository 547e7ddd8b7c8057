"""PostgreSQL as the distribution builds it, unpacked into a folder of ours, and the test suites of the same version's sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.apt import Apt, AptError
from thanoproxy.embedded.account import Account, account_for, unreachable

__all__ = ["Distribution", "DistributionError", "cache_folder", "checked", "fetch", "tell"]

MAJOR = "15"
SOURCE = f"postgresql-{MAJOR}"
PACKAGES = (f"postgresql-{MAJOR}", f"postgresql-client-{MAJOR}", f"postgresql-server-dev-{MAJOR}", "libpq5")
SUITES = ("src/test/regress", "src/test/isolation")
LIBRARIES = ("refint.so", "autoinc.so")  # the suite's own Makefile takes them from contrib/spi
COMMAND_SECONDS = 300


class DistributionError(Exception):
    """What is needed cannot be had; the text says what."""


@dataclass(frozen=True)
class Distribution:
    """PostgreSQL of one version: `root` as dpkg unpacks it, `tests` as the sources have them."""

    folder: Path
    version: str

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def tests(self) -> Path:
        return self.folder / "source" / "src" / "test"

    @property
    def binaries(self) -> Path:
        return self.root / "usr/lib/postgresql" / MAJOR / "bin"

    @property
    def runners(self) -> Path:
        """pg_regress and its like."""
        return self.root / "usr/lib/postgresql" / MAJOR / "lib/pgxs/src/test"

    @property
    def libraries(self) -> Path:
        """The shared libraries that the suites load into the server."""
        return self.folder / "libraries"

    def environment(self) -> dict[str, str]:
        """What its programs are started with: no PG… variable of ours, and its own libpq."""
        libpq = next(self.root.rglob("libpq.so.5"))
        kept = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
        return {**kept, "LC_ALL": "C", "LD_LIBRARY_PATH": str(libpq.parent)}


def cache_folder() -> tuple[Path, Account]:
    """Where everything is kept, and the user who runs PostgreSQL and can reach it."""
    named = os.environ.get("THANOPROXY_CONFORMANCE_DIR")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(named) if named else base / "thanoproxy" / "conformance"
    account = account_for(folder / "none yet")
    if not named and unreachable(folder, account):
        folder = Path(f"/var/tmp/thanoproxy-conformance-{os.geteuid()}")
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise DistributionError(f"{folder} belongs to another user: name a folder in THANOPROXY_CONFORMANCE_DIR")
    blocked = unreachable(folder, account)
    if blocked:
        raise DistributionError(f"user {account.name} cannot enter {blocked}: name another folder in THANOPROXY_CONFORMANCE_DIR")
    return folder.resolve(), account


def fetch(cache: Path) -> Distribution:
    """The version that is in the cache, else the newest whose packages and sources can both be had."""
    kept = sorted(cache.glob("[0-9]*/complete"), key=lambda path: path.stat().st_mtime)
    if kept:
        return Distribution(kept[-1].parent, kept[-1].parent.name)
    tell("reading the distribution's lists")
    apt = Apt(cache / "apt")
    apt.update()
    for version in apt.versions(SOURCE):
        try:
            return make(apt, cache, version)
        except AptError as error:
            tell(f"{SOURCE} {version} cannot be had: {error}")
            shutil.rmtree(cache / version)
    raise DistributionError(f"no version of {SOURCE} can be fetched from the sources of this machine")


def make(apt: Apt, cache: Path, version: str) -> Distribution:
    """Download, unpack and compile one version; `complete` is written last."""
    made = Distribution(cache / version, version)
    shutil.rmtree(made.folder, ignore_errors=True)
    downloads = made.folder / "downloads"
    downloads.mkdir(parents=True)
    tell(f"fetching {SOURCE} {version}")
    apt.source(SOURCE, version, downloads)
    apt.packages(PACKAGES, version, downloads)
    for deb in sorted(downloads.glob("*.deb")):
        checked(["dpkg", "-x", str(deb), str(made.root)])
    unpack(next(downloads.glob("*.orig.tar.*")), made.folder / "source")
    compile_libraries(made)
    shutil.rmtree(downloads)
    (made.folder / "complete").touch()
    return made


def unpack(archive: Path, into: Path) -> None:
    """The suites out of PostgreSQL's sources, without the first folder of their paths."""
    with tarfile.open(archive) as tar:
        tar.extractall(into, members=members(tar), filter="data")


def members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        path = member.name.partition("/")[2]
        if path.startswith(tuple(f"{suite}/" for suite in SUITES)):
            yield member.replace(name=path)


def compile_libraries(made: Distribution) -> None:
    """regress.so, which the suite's functions in C lie in, beside those that the packages have."""
    made.libraries.mkdir()
    headers = made.root / "usr/include/postgresql" / MAJOR / "server"
    source = made.tests / "regress" / "regress.c"
    checked(["cc", "-shared", "-fPIC", "-O2", f"-I{headers}", "-o", str(made.libraries / "regress.so"), str(source)])
    for name in LIBRARIES:
        shutil.copy(made.binaries.parent / "lib" / name, made.libraries)


def checked(words: list[str]) -> None:
    """Run a program that must succeed."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except FileNotFoundError:
        raise DistributionError(f"{words[0]} is not there, and is needed") from None
    except subprocess.TimeoutExpired:
        raise DistributionError(f"{' '.join(words)}: no end after {COMMAND_SECONDS} s") from None
    if done.returncode != 0:
        raise DistributionError(f"{' '.join(words)}: {done.stderr.strip()}")


def tell(text: str) -> None:
    """What takes time, beside the scores."""
    print(text, file=sys.stderr, flush=True)
