"""Many PREDICTs at once: none fails for being one of many, and beyond the limit they are refused before they begin."""

from __future__ import annotations

import asyncio
from pathlib import Path
from threading import Thread

import asyncpg
import psycopg
import pytest

from tests.databases import Database
from tests.serving import Proxy, running_proxy, small_model

pytestmark = pytest.mark.alone

MANY = "PREDICT USING colours OPTIONS (cache=false) AS SELECT id, image FROM pictures, generate_series(1, {}) g ORDER BY g, id"
SESSIONS = 60
TIMES = 1


def test_a_crowd_of_sessions_is_served(proxy: Proxy, database: Database) -> None:
    url = proxy.url(database)
    small_model(url)

    async def ask(connection: asyncpg.Connection[asyncpg.Record]) -> list[tuple[object, ...]]:
        return [tuple(row) for row in await connection.fetch(MANY.format(TIMES))]

    async def crowd() -> list[list[tuple[object, ...]]]:
        connections = await asyncio.gather(*(asyncpg.connect(url) for _ in range(SESSIONS)))
        try:
            return await asyncio.gather(*map(ask, connections))
        finally:
            await asyncio.gather(*(connection.close() for connection in connections))

    answers = asyncio.run(crowd())
    assert len(answers[0]) == 24 * TIMES
    assert all(answer == answers[0] for answer in answers)


def test_beyond_the_limit_a_statement_is_refused_before_it_begins(database: Database, image_root: Path, tmp_path: Path) -> None:
    limit = {"workers": {"pool": "inline", "queue_rows": 20}}
    with running_proxy(database.url, [image_root], tmp_path / "artifacts", more=limit) as proxy:
        url = proxy.url(database)
        small_model(url)
        with psycopg.connect(url, autocommit=True) as busy, psycopg.connect(url, autocommit=True) as late:
            answer: list[object] = []
            thread = Thread(target=lambda: answer.extend(busy.execute(MANY.format(80)).fetchall()))  # type: ignore[arg-type]
            thread.start()

            def until_refused() -> None:
                while thread.is_alive():
                    late.execute(MANY.format(1))  # type: ignore[call-overload]

            with pytest.raises(psycopg.errors.ConfigurationLimitExceeded) as refused:
                until_refused()
            assert refused.value.sqlstate == "53400"
            assert "workers.queue_rows" in str(refused.value.diag.message_hint)
            assert late.execute("SELECT 'goes on'").fetchone() == ("goes on",)
            thread.join(60)
            assert len(answer) == 24 * 80, "one that has begun is not"
            assert len(late.execute(MANY.format(1)).fetchall()) == 24  # type: ignore[call-overload]
