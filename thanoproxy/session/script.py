"""Several statements in one simple Query, some of them ours: it stays ONE Query.

Each statement of ours is replaced by its lookup, its inner query, and `COPY thanosql.gate FROM STDIN`.  The server stops there and
waits for us (protocol-flow.html#PROTOCOL-COPY): an end of the copy lets the rest of the string run, a row that raises fails the
whole string with our SQLSTATE.  So the syntax check of the whole string, LOCK, VACUUM, SET LOCAL, timestamps, BEGIN and COMMIT inside
and rollback are the server's own; sending the pieces one by one would not be the same (docs/architecture.md).

    client   INSERT …;            PREDICT …                                   ; SELECT 2
    server   INSERT …; <timeout>; <lookup>; <inner query>; COPY thanosql.gate ; SELECT 2
    steps    Relayed   Kept       Kept      Inner          Gate                 Relayed

A statement of PostgreSQL's with PREDICTs inside comes behind the temporary tables that stand for them; there the place where the
server waits is the COPY of the predictions itself.

Replies come in the order of the steps; each step knows its own (`take`), and the coroutine `run_script` follows behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from thanoproxy.catalog import store
from thanoproxy.errors import FeatureNotSupported, ThanoError, UndefinedParameter
from thanoproxy.session.execute import SETTINGS
from thanoproxy.session.holes import HoleWork, hole_work
from thanoproxy.session.importing import Imports, ImportWork, open_all
from thanoproxy.session.retag import UNCHANGED, retag
from thanoproxy.session.steps import Kept, Relayed, Script, Step
from thanoproxy.session.works import CollectWork, DecorateWork, SummariseWork, Work
from thanoproxy.sql.source import Source
from thanoproxy.sql.tokens import tokenize
from thanoproxy.statements import Part
from thanoproxy.statements.render import filled, hole_query, rewritten, unpredicted
from thanoproxy.statements.saved import saved
from thanoproxy.statements.shapes import (
    Collect,
    Decorate,
    Hole,
    Import,
    Nested,
    Prepare,
    Refresh,
    Rewrite,
    Save,
    SaveRows,
    Summarise,
    has_job,
)
from thanoproxy.wire import messages
from thanoproxy.wire.messages import ErrorFields
from thanoproxy.wire.pipeline import SegmentFailed, UpstreamError

if TYPE_CHECKING:
    from thanoproxy.session.attend import Attendant

__all__ = ["Run", "refuse_parameters", "refuse_together", "run_script"]

_READ_ONLY = "25006"


async def run_script(attendant: Attendant, text: str, parts: Sequence[Part]) -> None:
    """Send the string and see it through; its ReadyForQuery has been relayed, or is on its way, when this returns."""
    shapes = [part.shape for part in parts if isinstance(part.shape, Import)]
    async with AsyncExitStack() as stack:
        try:
            imports = await open_all(attendant, shapes, stack)
        except ThanoError as problem:
            await attendant.fail(problem)
            attendant.exchange.sync()
            return
        await Run(attendant, text, parts, imports).run()


def refuse_together(parts: Sequence[Part]) -> None:
    """Raises for what may not share a string with other statements."""
    for part in parts:
        if isinstance(part.shape, Prepare) and len(parts) > 1:
            raise FeatureNotSupported(
                "PREPARE of a PREDICT cannot share a string with other statements",
                hint="Send the statement by itself.",
                position=part.start + 1,
            )
        if isinstance(part.shape, SaveRows) and len(parts) > 1:
            raise FeatureNotSupported(
                "CREATE MATERIALIZED VIEW with a PREDICT cannot share a string with other statements",
                hint="Send the statement by itself.",
                position=part.start + 1,
            )


def refuse_parameters(text: str, parts: Sequence[Part]) -> None:
    """Raises where a statement of ours in the simple protocol has a parameter, as the server does for its own."""
    for part in parts:
        if part.shape is None or isinstance(part.shape, Prepare):
            continue
        for token in tokenize(text[part.start : part.end]):
            if token.kind == "PARAM":
                raise UndefinedParameter(f"there is no parameter {token.text}", position=part.start + token.start + 1)


class Run:
    """One string on its way."""

    def __init__(self, attendant: Attendant, text: str, parts: Sequence[Part], imports: Imports) -> None:
        self.attendant = attendant
        self.imports = imports
        self.exchange = attendant.exchange
        self.services = attendant.services
        self.source = Source()
        self.script = Script(self.exchange.client.write, self._show)
        self.works: list[Work | ImportWork | Relayed] = []
        self.current: Work | ImportWork | None = None
        self.has_jobs = any(part.shape is not None and not isinstance(part.shape, Prepare) and has_job(part.shape) for part in parts)
        at = 0
        for part in parts:
            self.source.add(text[at : part.start], at)
            self._add(part, text)
            at = part.end
        self.source.add(text[at:], at)
        attendant.traced(self.source)

    async def run(self) -> None:
        self.exchange.pipeline.expect(self.script)
        self.exchange.send(messages.query(self.source.text.encode(self.exchange.codec)))
        async with self.attendant.audience.informed(self.has_jobs):
            await self._follow()

    async def _follow(self) -> None:
        try:
            for work in self.works:
                if isinstance(work, Relayed):
                    await self._relay(work)
                else:
                    self.current = work
                    await work.run()
        except (UpstreamError, SegmentFailed):
            return

    def _add(self, part: Part, text: str) -> None:
        assert not isinstance(part.shape, Prepare | SaveRows), "refused before"
        if part.shape is None or isinstance(part.shape, Rewrite | Refresh):
            rewritten = part.shape if isinstance(part.shape, Rewrite) else None
            self.source.add(*((text[part.start : part.end], part.start) if rewritten is None else (rewritten.sql, None)))
            step = Relayed(self.exchange.client.write, retag(rewritten or UNCHANGED, self.exchange.codec), ours=rewritten is not None)
            self.script.steps.append(step)
            self.works.append(step)
            return
        if isinstance(part.shape, Save):
            self._add_saved(part.shape)
            return
        if isinstance(part.shape, Nested):
            self._add_nested(part.shape)
            return
        if isinstance(part.shape, Import):
            self._add_import(part.shape)
            return
        work = self._work(part.shape)
        self.source.add(f"{SETTINGS};\n{part.shape.lookup()};\n")
        self.source.add(part.shape.inner.text, part.shape.inner.start)
        self.source.add(f";\n{store.GATE}")
        self.script.steps += [work.settings, work.lookup, work.inner, work.gate]
        self.works.append(work)

    def _add_saved(self, shape: Save) -> None:
        self.attendant.reader.names.add([shape.name])
        told = Kept(self.exchange.codec)
        self.source.add(f"{store.view_saved()};\n")
        self.source.extend(saved(shape))
        step = Relayed(self.exchange.client.write, retag(UNCHANGED))
        self.script.steps += [told, step]
        self.works.append(step)

    def _add_import(self, shape: Import) -> None:
        work = ImportWork(self, shape, self.imports[shape])
        self.source.extend(work.source)
        self.script.steps += work.steps
        self.works.append(work)

    def _work(self, shape: Decorate | Summarise | Collect) -> Work:
        if isinstance(shape, Decorate):
            return DecorateWork(self, shape)
        return SummariseWork(self, shape) if isinstance(shape, Summarise) else CollectWork(self, shape)

    def _add_nested(self, statement: Nested) -> None:
        """The holes become tables before the statement is reached, and the tables go behind it."""
        sources = dict[Hole, Source]()
        works = list[HoleWork]()
        only_planned = statement.explain is not None and not statement.explain.analyze

        def fill(hole: Hole) -> None:
            for inner in hole.holes:
                fill(inner)
            if isinstance(hole.shape, Rewrite):
                sources[hole] = rewritten(hole.shape)
                return
            query = hole_query(statement, hole, sources.__getitem__)
            if only_planned:
                sources[hole] = unpredicted(hole.shape, query)
                return
            work = hole_work(self, hole.shape, query)
            sources[hole] = work.place
            works.append(work)

        for hole in statement.holes:
            fill(hole)
        for work in works:
            self.source.extend(work.source)
            self.script.steps += work.steps
            self.works.append(work)
        self.source.extend(filled(statement, statement.start, statement.end, statement.holes, sources.__getitem__))
        step = Relayed(self.exchange.client.write, retag(UNCHANGED))
        self.script.steps.append(step)
        self.works.append(step)
        if works and not statement.outlives:
            tables = ", ".join(f"pg_temp.{table}" for work in works for table in work.tables)
            self.source.add(f";\nDROP TABLE {tables}")
            self.script.steps.append(Kept(self.exchange.codec))

    async def _relay(self, step: Relayed) -> None:
        await step.moved.wait()
        if step.copying:
            await self.attendant.copy_in()
        await asyncio.wait([step.done])
        step.done.result()

    def _show(self, frame: bytes, step: Step | None) -> None:
        fields = messages.read_error(frame[5:])
        if step is not None and step.shown is not None:
            self.exchange.client.write(step.shown(fields))
            return
        if step is not None and not isinstance(step, Relayed) and fields.sqlstate == _READ_ONLY:
            error = FeatureNotSupported(
                "in a read-only transaction this statement cannot share a string with others", hint="Send it by itself."
            )
            self.exchange.client.write(messages.error_response(error, encoding=self.exchange.codec))
            return
        missing = store.not_installed(fields.sqlstate, fields.text, self.attendant.identity.database)
        if missing is not None:
            self.exchange.client.write(messages.error_response(missing, encoding=self.exchange.codec))
            return
        if isinstance(step, Relayed) and step.ours:
            self.exchange.client.write(step.rewrite(ord("E"), frame))
            return
        position = None if fields.position is None else self.source.position(fields.position)
        self.exchange.client.write(ErrorFields(fields.with_position(position).fields).encode())
