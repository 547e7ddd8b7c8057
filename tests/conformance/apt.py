"""Debian packages and sources without touching the machine's own: apt with lists, cache and sources in a folder of ours.

The mirrors and keys are those of the machine's sources; only the source packages and the lists of another moment are added.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from functools import cmp_to_key
from pathlib import Path

__all__ = ["Apt", "AptError"]

SOURCES = Path("/etc/apt")
UPDATE_SECONDS = 180
DOWNLOAD_SECONDS = 300

# What the machine does after an update is for its own lists.
CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::Etc::SourceList "{folder}/own.sources";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "{folder}/lists";
Dir::Cache "{folder}/cache";
"""


class AptError(Exception):
    """apt could not do it; the text is what it said last."""


class Apt:
    """apt-get and apt-cache with everything they write in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._configuration = folder / "apt.conf"
        for part in ("lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "own.sources").write_text("\n".join(debian_stanzas()), encoding="utf-8")
        self._configuration.write_text(CONFIGURATION.format(folder=folder), encoding="utf-8")

    def update(self) -> None:
        """Read the archive's lists."""
        self._run(["apt-get", "--quiet", "update"], UPDATE_SECONDS)

    def versions(self, source: str) -> list[str]:
        """The versions of a source package that the archive lists, the newest first."""
        text = self._run(["apt-cache", "showsrc", "--only-source", source], UPDATE_SECONDS)
        found = {line.removeprefix("Version: ") for line in text.splitlines() if line.startswith("Version: ")}
        return sorted(found, key=cmp_to_key(_compare), reverse=True)

    def source(self, package: str, version: str, into: Path) -> None:
        """The files of a source package.  Raises `AptError` where the archive no longer has them."""
        self._run(["apt-get", "--quiet", "source", "--only-source", "--download-only", f"{package}={version}"], DOWNLOAD_SECONDS, into)

    def packages(self, names: tuple[str, ...], version: str, into: Path) -> None:
        """The .deb files of packages."""
        self._run(["apt-get", "--quiet", "download", *(f"{name}={version}" for name in names)], DOWNLOAD_SECONDS, into)

    def _run(self, command: list[str], seconds: int, folder: Path | None = None) -> str:
        whole = [command[0], f"--config-file={self._configuration}", *command[1:]]
        environment = {**os.environ, "LC_ALL": "C"}
        try:
            done = subprocess.run(whole, capture_output=True, text=True, cwd=folder, timeout=seconds, env=environment, check=False)
        except FileNotFoundError:
            raise AptError(f"{command[0]} is not there: conformance needs Debian") from None
        except subprocess.TimeoutExpired:
            raise AptError(f"{' '.join(command)}: no end after {seconds} s") from None
        if done.returncode != 0:
            raise AptError(f"{' '.join(command)}: {_blamed(done.stderr)}")
        return done.stdout


def _blamed(text: str) -> str:
    """apt's first line that begins with E, which names the file or the package."""
    lines = text.strip().splitlines() or ["failed"]
    return next((line for line in lines if line.startswith("E: ")), lines[-1])


def _compare(one: str, other: str) -> int:
    """As a sort function: Debian's order of versions."""
    if one == other:
        return 0
    return -1 if subprocess.run(["dpkg", "--compare-versions", one, "lt", other], check=False).returncode == 0 else 1


# The machine's sources, in both of apt's forms.


def debian_stanzas() -> Iterator[str]:
    """The machine's sources of its own release, binary and source packages."""
    suites = {codename() + pocket for pocket in ("", "-updates", "-security")}
    for stanza in [*_deb822_stanzas(), *_one_line_stanzas()]:
        wanted = [suite for suite in stanza.get("Suites", "").split() if suite in suites]
        if wanted and "deb" in stanza["Types"].split():
            ours = {**stanza, "Types": "deb deb-src", "Suites": " ".join(wanted), "Components": "main"}
            yield "".join(f"{field}: {value}\n" for field, value in ours.items())


def codename() -> str:
    """The name of this release of Debian."""
    for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    raise AptError("/etc/os-release names no release: conformance needs Debian")


def _deb822_stanzas() -> Iterator[dict[str, str]]:
    for file in sorted((SOURCES / "sources.list.d").glob("*.sources")):
        for text in file.read_text(encoding="utf-8").split("\n\n"):
            stanza = dict(_fields(text))
            if "Types" in stanza and stanza.get("Enabled", "yes").lower() != "no":
                yield stanza


def _fields(text: str) -> Iterator[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    # A line that begins with a space goes on with the field before it, such as a key that stands in the file itself.
    for whole in "\n".join(lines).replace("\n ", "\0 ").splitlines():
        name, _, value = whole.partition(":")
        yield name.strip().title() if name.islower() else name.strip(), value.strip().replace("\0", "\n")


def _one_line_stanzas() -> Iterator[dict[str, str]]:
    for file in [SOURCES / "sources.list", *sorted((SOURCES / "sources.list.d").glob("*.list"))]:
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        for line in lines:
            words = line.partition("#")[0].split()
            if words[:1] == ["deb"]:
                yield _stanza_of(words[1:])


def _stanza_of(words: list[str]) -> dict[str, str]:
    """`[signed-by=KEY] URI SUITE COMPONENT…` as the other form has it."""
    options: dict[str, str] = {}
    if words and words[0].startswith("["):
        end = next(i for i, word in enumerate(words) if word.endswith("]"))
        for option in " ".join(words[: end + 1]).strip("[]").split():
            name, _, value = option.partition("=")
            options[name.title()] = value
        words = words[end + 1 :]
    kept = {name: value for name, value in options.items() if name in ("Signed-By", "Trusted")}
    return {"Types": "deb", "URIs": words[0], "Suites": words[1], **kept}
