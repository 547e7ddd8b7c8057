"""Takes the steps of a specification in each of its orders, and writes down what is seen."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import psycopg

from tests.isolation.spec import Session, Spec

__all__ = ["run_spec"]

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

HIDDEN = {"seconds", "validation_accuracy", "last_updated_utc", "sha256", "size_bytes"}
"""Columns that are different every time.  Of a predicted label only what comes before its colon is the same."""

POLL_SECONDS = 0.01
PATIENCE = 60.0


async def run_spec(spec: Spec, url: str, direct: str) -> str:
    """All that is seen, as text.  Sessions connect to `url`, and PostgreSQL is asked at `direct` which of them wait."""
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(await psycopg.AsyncConnection.connect(direct, autocommit=True))
        helper = await stack.enter_async_context(await psycopg.AsyncConnection.connect(url, autocommit=True))
        opened = {
            session.name: await stack.enter_async_context(await psycopg.AsyncConnection.connect(url, autocommit=True))
            for session in spec.sessions
        }
        if spec.once:
            await helper.execute(spec.once)  # type: ignore[arg-type]
        texts = []
        for order in spec.permutations:
            if spec.setup:
                await helper.execute(spec.setup)  # type: ignore[arg-type]
            texts.append(await _Permutation(spec, order, opened, control).run())
            if spec.teardown:
                await helper.execute(spec.teardown)  # type: ignore[arg-type]
        return "\n".join(texts)


class _Permutation:
    """One order of the steps."""

    def __init__(self, spec: Spec, order: Sequence[str], opened: dict[str, Connection], control: Connection) -> None:
        self.spec = spec
        self.order = order
        self.opened = opened
        self.control = control
        self.lines = [f"starting permutation: {' '.join(order)}"]
        self.waiting: dict[str, asyncio.Task[list[str]]] = {}

    async def run(self) -> str:
        for session in self.spec.sessions:
            await _perform(self.opened[session.name], session.setup or "SELECT")
        for step in self.order:
            session = self.spec.session_of(step)
            for other in [name for name in self.waiting if name in session.steps]:
                await self._finish(other)
            text = session.steps[step]
            task = asyncio.create_task(_perform(self.opened[session.name], text))
            if await self._blocked(session, task):
                self.lines.append(f"step {step}: {text} <waiting ...>")
                self.waiting[step] = task
            else:
                self.lines += [f"step {step}: {text}", *task.result()]
            for other in list(self.waiting):
                if not await self._blocked(self.spec.session_of(other), self.waiting[other]):
                    await self._finish(other)
        for other in list(self.waiting):
            await self._finish(other)
        return "\n".join(self.lines) + "\n"

    async def _finish(self, step: str) -> None:
        async with asyncio.timeout(PATIENCE):
            seen = await self.waiting.pop(step)
        self.lines += [f"step {step}: <... completed>", *seen]

    async def _blocked(self, session: Session, task: asyncio.Task[list[str]]) -> bool:
        """Whether the session waits for another one; False once its step is done.  What only takes time is waited for."""
        pids = [connection.info.backend_pid for connection in self.opened.values()]
        pid = self.opened[session.name].info.backend_pid
        async with asyncio.timeout(PATIENCE):
            while not task.done():
                await asyncio.wait([task], timeout=POLL_SECONDS)
                asked = await self.control.execute("SELECT pg_catalog.pg_isolation_test_session_is_blocked(%s, %s::int[])", [pid, pids])
                if not task.done() and await asked.fetchone() == (True,):
                    return True
        return False


async def _perform(connection: Connection, text: str) -> list[str]:
    """Runs one step, as one simple Query, and tells what came of it."""
    try:
        cursor = await connection.execute(text)  # type: ignore[arg-type]
        lines = []
        while True:
            if cursor.description:
                lines += _table([column.name for column in cursor.description], await cursor.fetchall())
            if not cursor.nextset():
                return lines
    except psycopg.Error as error:
        return [f"ERROR:  {error.sqlstate}: {error.diag.message_primary}"]


def _table(columns: list[str], rows: list[tuple[Any, ...]]) -> list[str]:
    """As psql shows it, unaligned."""
    shown = [index for index, column in enumerate(columns) if column not in HIDDEN]
    lines = ["|".join(columns[index] for index in shown)] if shown else []
    lines += ["|".join(_shown(columns[index], row[index]) for index in shown) for row in rows]
    return [*lines, f"({len(rows)} row{'' if len(rows) == 1 else 's'})", ""] if shown else []


def _shown(column: str, value: object) -> str:
    text = "" if value is None else str(value)
    return text.partition(":")[0] if column == "predicted" else text
