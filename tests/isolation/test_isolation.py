"""Each specification gives what is expected of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.databases import Database
from tests.isolation.runner import run_spec
from tests.isolation.spec import read_spec
from tests.serving import COLOURS, Proxy

HERE = Path(__file__).parent
SPECS = sorted((HERE / "specs").glob("*.spec"))
ROLES = ("isolation_team", "isolation_alice", "isolation_bob")


@pytest.fixture
def peopled(database: Database) -> Iterator[Database]:
    """With table `pictures`, and the roles alice and bob, of whom alice belongs to the team."""
    team, alice, bob = ROLES
    with psycopg.connect(database.url, autocommit=True) as connection:
        for role in ROLES:
            connection.execute(f"CREATE ROLE {role}")  # type: ignore[arg-type]
        connection.execute(f"GRANT {team} TO {alice}")  # type: ignore[arg-type]
        connection.execute("CREATE TABLE pictures (id int, image text, label text)")
        for i, colour in enumerate(sorted(COLOURS) * 2):
            connection.execute("INSERT INTO pictures VALUES (%s, %s, %s)", [i, f"{colour}/{i // 2}.png", colour])
        connection.execute(f"GRANT SELECT ON pictures TO {alice}, {bob}")  # type: ignore[arg-type]
        yield database
        connection.execute(f"DROP OWNED BY {', '.join(ROLES)}")  # type: ignore[arg-type]
        connection.execute(f"DROP ROLE {', '.join(ROLES)}")  # type: ignore[arg-type]


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
async def test_isolation(proxy: Proxy, peopled: Database, path: Path) -> None:
    seen = await run_spec(read_spec(path), proxy.url(peopled), peopled.url)
    expected = HERE / "expected" / f"{path.stem}.out"
    if not expected.exists():
        expected.write_text(seen, encoding="utf-8")
        pytest.fail(f"{expected.name} was not there: it is now, for you to judge")
    assert seen.splitlines() == expected.read_text(encoding="utf-8").splitlines()
