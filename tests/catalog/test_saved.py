"""The names of views with predictions, as a connection of the proxy's own finds them."""

from __future__ import annotations

import asyncio

from tests.databases import Database
from thanoproxy.catalog.install import install
from thanoproxy.catalog.saved import SavedViews
from thanoproxy.embedded import EmbeddedPostgres, temporary_directory

VIEW = """
CREATE VIEW shown AS SELECT q.image, thanosql.saved('PREDICT USING m AS', 'predicted', NULL::text) AS predicted
FROM (SELECT 'a.png' AS image) AS q
"""


async def test_on_a_standby() -> None:
    """It refuses LISTEN, and has the views all the same."""
    with temporary_directory("thanoproxy-test-") as folder:
        with EmbeddedPostgres(folder / "pg", durable=False, copy_binaries=True, tied=True) as primary:
            await install(primary.url)
            Database(primary, "postgres").execute(VIEW)
        (folder / "pg" / "standby.signal").touch()
        with EmbeddedPostgres(folder / "pg", durable=False, copy_binaries=True, tied=True) as standby:
            heard = asyncio.Queue[frozenset[str] | None]()
            views = SavedViews(standby.url)
            views.enter("postgres", heard.put_nowait)
            try:
                assert await asyncio.wait_for(heard.get(), 10) == {"shown"}
            finally:
                await views.close()
