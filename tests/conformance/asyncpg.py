"""`python -m tests.conformance.asyncpg`: asyncpg's own tests, of the version installed here, directly and through the proxy.

They start servers of their own, change who may log in, restart them, build standbys; `asyncpg_servers` puts a proxy in front of each.
They have a Python environment of their own: they need what we do not, and their package is called `tests`, too.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
import tarfile
import venv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

from tests.conformance.apt import AptError
from tests.conformance.distribution import Distribution, DistributionError, cache_folder, checked, fetch, tell
from tests.conformance.score import OK, Score, compare
from tests.conformance.suites import run_bounded
from tests.conformance.ways import WAYS
from thanoproxy.embedded.account import Account, account_for

NEEDED = ("pytest", "pytest-timeout", "distro", "uvloop")
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 900
TEST_SECONDS = 120


@dataclass(frozen=True)
class Tests:
    """asyncpg's tests, and the Python that runs them."""

    folder: Path
    version: str

    @property
    def python(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

    def run(self, made: Distribution, account: Account, way: str, folder: Path) -> Score:
        """Run them with or without proxies; what pytest prints is left in `folder`."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("asyncpg_servers.py"), self.folder / "conftest.py")
        report = folder / "report.xml"
        command = [
            *(str(self.python), "-m", "pytest", "-c", str(self.folder / "pytest.ini"), "-p", "no:cacheprovider"),
            *("--import-mode=importlib", "-q", "-ra", f"--timeout={TEST_SECONDS}", f"--junitxml={report}"),
            str(self.folder / "tests"),
        ]
        seconds = run_bounded(command, environment(made, account, way), folder / "log", myself(), SECONDS)
        return Score(dict(results(report)) if report.exists() else {}, seconds, folder)


def myself() -> Account:
    """The tests are clients, and run as whoever runs us."""
    return replace(account_for(Path("/none")), other=False)


def environment(made: Distribution, account: Account, way: str) -> dict[str, str]:
    owner = {"user": account.uid, "group": account.gid, "extra_groups": []} if account.other else {}
    kept = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
    ours = {**made.environment(), **kept, "PGINSTALLATION": str(made.binaries), "CONFORMANCE_OWNER": json.dumps(owner)}
    if way == "proxy":
        command = [sys.executable, "-m", "tests.conformance.servers"]
        ours["CONFORMANCE_PROXY"] = json.dumps({"command": command, "folder": str(ROOT)})
    return ours


def results(report: Path) -> Iterator[tuple[str, str]]:
    """Each test of pytest's report with what became of it."""
    for case in ElementTree.parse(report).iter("testcase"):
        said = {child.tag for child in case} & {"failure", "error", "skipped"}
        yield f"{case.get('classname')}.{case.get('name')}", min(said, default=OK)


def fetch_tests(cache: Path) -> Tests:
    """The tests of the version of asyncpg that is installed here, from its source distribution."""
    version = importlib.metadata.version("asyncpg")
    tests = Tests(cache / f"asyncpg-{version}", version)
    if (tests.folder / "complete").exists():
        return tests
    shutil.rmtree(tests.folder, ignore_errors=True)
    tell(f"fetching asyncpg {version}")
    tests.folder.mkdir()
    venv.create(tests.folder / "venv", with_pip=True)
    pip = [str(tests.python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wanted = f"asyncpg=={version}"
    checked([*pip, "install", wanted, *NEEDED])
    checked([*pip, "download", "--no-binary=asyncpg", "--no-deps", f"--dest={tests.folder}", wanted])
    unpack(tests.folder / f"asyncpg-{version}.tar.gz", tests.folder)
    (tests.folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (tests.folder / "complete").touch()
    return tests


def unpack(archive: Path, into: Path) -> None:
    """The folder `tests` of the source distribution."""
    with tarfile.open(archive) as tar:
        inside = [member.replace(name=member.name.partition("/")[2]) for member in tar]
        tar.extractall(into, members=[member for member in inside if member.name.startswith("tests/")], filter="data")


def main() -> int:
    try:
        cache, account = cache_folder()
        made = fetch(cache)
        tests = fetch_tests(cache)
        print(f"asyncpg {tests.version}, postgresql {made.version}", flush=True)
        scores = [run_one(tests, way, made, account, cache / "results" / "asyncpg" / way) for way in WAYS]
    except (AptError, DistributionError) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2
    differences = list(compare(*scores))
    print("\n".join(f"  {line}" for line in differences) or "the same through the proxy as directly")
    return 1 if differences else 0


def run_one(tests: Tests, way: str, made: Distribution, account: Account, folder: Path) -> Score:
    """asyncpg's tests in one way."""
    score = tests.run(made, account, way, folder)
    print(f"{'asyncpg':<10} {way:<7} {score.line()}", flush=True)
    return score


if __name__ == "__main__":
    sys.exit(main())
