"""What a proxy does for its artifacts' folder while it serves: says whose it is, and sweeps it now and then."""

from __future__ import annotations

import asyncio
import logging

from thanoproxy.catalog.artifacts import ArtifactStore
from thanoproxy.catalog.sweep import register, sweep

__all__ = ["Sweeper"]

log = logging.getLogger(__name__)

AGAIN = 60.0
"""Seconds until the next attempt to reach the server."""

OFTEN = 3600.0


class Sweeper:
    """`keep` is for how many seconds unused files stay; 0 for ever."""

    def __init__(self, url: str, store: ArtifactStore, keep: float) -> None:
        self._url = url
        self._store = store
        self._keep = keep
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="sweeper")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        registered = False
        while self._keep or not registered:
            try:
                if not registered:
                    await register(self._url, self._store)
                    registered = True
                if self._keep:
                    await self._sweep()
                else:
                    await asyncio.to_thread(self._store.files.sweep_temporary)
            except Exception as error:  # whatever it is, serving goes on
                log.warning("artifacts: %s", str(error) or type(error).__name__)
            await asyncio.sleep(min(OFTEN, self._keep / 2) if registered else AGAIN)

    async def _sweep(self) -> None:
        deleted = [swept.key for swept in await sweep(self._url, self._store, self._keep) if swept.deleted]
        if deleted:
            log.info("artifacts: deleted %d files that no model needs any more", len(deleted))
