"""Statements of ours inside the statements of a string: each is done before the server comes to the statement around it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING
from uuid import uuid4

from thanoproxy.errors import ThanoError
from thanoproxy.session.decorate import RowStream, warn
from thanoproxy.session.execute import SETTINGS
from thanoproxy.session.sheet import Sheet, answer_table, copy_from, copy_row, prediction_rows, predictions_table
from thanoproxy.session.steps import Kept, Step
from thanoproxy.session.summarise import answer_fields
from thanoproxy.session.works import RowsWork
from thanoproxy.sql.source import Source
from thanoproxy.statements.render import kept_answer, predicted
from thanoproxy.statements.shapes import Decorate, Decoration, Summarise, Summary
from thanoproxy.wire import messages
from thanoproxy.wire.messages import Column

if TYPE_CHECKING:
    from thanoproxy.session.script import Run

__all__ = ["HoleWork", "hole_work"]

_PART = 1000


class HoleWork(RowsWork):
    """A statement of ours inside one of the string: what it gives lies in temporary tables when the server comes to the one around it.

    `place` reads those `tables`; it stands where the hole was.
    """

    tables: tuple[str, ...]
    place: Source

    def __init__(self, run: Run, shape: Decorate | Summarise, query: Source) -> None:
        super().__init__(run, shape)
        self.query = query
        self.table = f"thanoproxy_{uuid4().hex}"
        self.sheet: Sheet | None = None

    @property
    def steps(self) -> list[Step]:
        raise NotImplementedError

    @property
    def source(self) -> Source:
        """What is sent in front of the statement around it."""
        raise NotImplementedError

    async def answer(self, order: bytes | None) -> None:
        assert self.sheet is not None, "begun with the columns"
        async for part in self.sheet.parts():
            self.exchange.send(messages.copy_data(part))
            await self.exchange.upstream.drained()
        self.exchange.send(messages.copy_done())

    def refusal(self, problem: ThanoError) -> bytes:
        return messages.copy_fail(problem.message.encode(self.exchange.codec, "replace"))

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            if self.sheet is not None:
                self.sheet.close()


class DecorateHole(HoleWork):
    """A PREDICT: its rows are in one table, and the predictions go into another beside it."""

    def __init__(self, run: Run, shape: Decorate, query: Source) -> None:
        super().__init__(run, shape, query)
        self.decorate = shape
        self.tables = (self.table, f"{self.table}_p")
        self.place = predicted(self.table, shape.added)
        self._kept = [Kept(run.exchange.codec), Kept(run.exchange.codec)]
        self._decoration: Decoration | None = None

    @property
    def steps(self) -> list[Step]:
        return [self.settings, self.lookup, *self._kept, self.inner, self.gate]

    @property
    def source(self) -> Source:
        source = Source(f"{SETTINGS};\n{self.shape.lookup()};\nCREATE TEMPORARY TABLE {self.table} ON COMMIT DROP AS ")
        source.extend(self.query)
        source.add(
            f"\n;\n{predictions_table(self.table, self.decorate.added)};\n"
            f"SELECT q.ctid, q.* FROM pg_temp.{self.table} q;\n{copy_from(f'{self.table}_p')};\n"
        )
        return source

    def begin(self, columns: tuple[Column, ...]) -> Callable[[bytes], None]:
        codec = self.exchange.codec
        self.shape.columns(columns[1:], codec)
        decoration = self._decoration = self.decorate.open(self.found, columns[1:], codec, self.services.seal)
        decoration.image_column += 1
        self.sheet = Sheet(self.services.spool)
        return self.flow(RowStream(decoration, self.services.pool, self.exchange.upstream, self.sheet, prediction_rows(decoration)))

    async def work(self) -> bytes | None:
        await super().work()
        assert self._decoration is not None, "begun with the columns"
        warn(self._decoration, self.exchange)
        return None


class SummariseHole(HoleWork):
    """An EVALUATE: nothing is kept of its rows, and its answer goes into a table."""

    def __init__(self, run: Run, shape: Summarise, query: Source) -> None:
        super().__init__(run, shape, query)
        self.summarise = shape
        self.tables = (self.table,)
        self.place = kept_answer(self.table, shape.answers)
        self._kept = Kept(run.exchange.codec)
        self._summary: Summary | None = None
        self._answers: tuple[Column, ...] = ()

    @property
    def steps(self) -> list[Step]:
        return [self.settings, self.lookup, self._kept, self.inner, self.gate]

    @property
    def source(self) -> Source:
        source = Source(f"{SETTINGS};\n{self.shape.lookup()};\n{answer_table(self.table, self.summarise.answers)};\n")
        source.extend(self.query)
        source.add(f"\n;\n{copy_from(self.table)};\n")
        return source

    def begin(self, columns: tuple[Column, ...]) -> Callable[[bytes], None]:
        self._summary = self.summarise.open(self.found, columns, self.exchange.codec, self.services.seal)
        self._answers = self.shape.columns(columns, self.exchange.codec)
        self.sheet = Sheet(self.services.spool)
        return self.evaluate(self._summary)

    async def work(self) -> bytes | None:
        await super().work()
        assert self._summary is not None, "begun with the columns"
        assert self.sheet is not None, "begun with the columns"
        rows = self._summary.answer()
        while part := list(islice(rows, _PART)):
            fields = (answer_fields(self._answers, values, (1,), self.exchange.codec) for values in part)
            self.sheet.write(b"".join(map(copy_row, fields)))
            await asyncio.sleep(0)  # others may go on
        return None


def hole_work(run: Run, shape: Decorate | Summarise, query: Source) -> HoleWork:
    """The work of a hole."""
    return DecorateHole(run, shape, query) if isinstance(shape, Decorate) else SummariseHole(run, shape, query)
