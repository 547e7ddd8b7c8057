"""What every client of this folder meets: a database behind the proxy, with pictures and a small model of them in it.

There is one test module for each client.  A client that is not installed is skipped with the reason; `install.sh` installs those that
pip does not bring.

The proxy runs in a thread of this process, so a client whose C code waits for the server without releasing the GIL would wait for
ever: such a client belongs in a process of its own, as Java, node and psql are anyway (`run_client`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.clients.pictures import PREDICT, Predicted
from tests.conftest import make_database
from tests.databases import Database
from tests.serving import Proxy, small_model
from thanoproxy.embedded import EmbeddedPostgres

NODE_PACKAGES = Path(
    os.environ.get("THANOPROXY_TEST_CLIENTS")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thanoproxy" / "test-clients"
)


@pytest.fixture(scope="package")
def client_database(postgres: EmbeddedPostgres, template: str) -> Iterator[Database]:
    """One database for the whole folder; each client makes tables and models under names of its own."""
    yield from make_database(postgres, template)


@pytest.fixture(scope="package")
def url(proxy: Proxy, client_database: Database) -> str:
    """A URL through the proxy of a database with table `pictures` and model `colours`."""
    address = proxy.url(client_database)
    small_model(address)
    return address


@pytest.fixture(scope="package")
def predicted(url: str) -> Predicted:
    """All rows of `PREDICT`: every client must see these."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(PREDICT).fetchall()
    assert [row[0] for row in rows] == list(range(24))
    assert {row[3] for row in rows} <= {"red", "blue"}
    return rows


def run_client(
    command: list[str], *, stdin: str = "", env: dict[str, str] | None = None, errors: str = "strict"
) -> subprocess.CompletedProcess[str]:
    """Run a client to its end in a process of its own, untouched by PG* variables of the environment."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        encoding="utf-8",
        errors=errors,
        env=inherited | (env or {}),
    )


def run_node(program: str, url: str, *, packages: list[str]) -> dict[str, Any]:
    """Run a JavaScript program of this folder, and return the JSON object that it prints."""
    if shutil.which("node") is None:
        pytest.skip("there is no node")
    modules = NODE_PACKAGES / "node_modules"
    missing = [name for name in packages if not (modules / name).is_dir()]
    if missing:
        pytest.skip(f"not in {modules}: {', '.join(missing)} (tests/clients/install.sh)")
    done = run_client(["node", str(Path(__file__).with_name(program)), url], env={"NODE_PATH": str(modules)})
    assert done.returncode == 0, done.stderr
    observed = json.loads(done.stdout)
    assert isinstance(observed, dict)
    return observed
