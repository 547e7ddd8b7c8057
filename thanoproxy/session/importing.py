"""COPY … OPTIONS: the table is made and filled on the client's own connection, so all rights, limits and rules are PostgreSQL's.

    reader   (its own process)    columns  …  rows  rows  rows  end
    server   BEGIN … ;              DO (makes the table); COPY t FROM STDIN … rows … CopyDone
    client                                                                         COPY n

In a string of several statements the file is opened before the string is sent, because its columns are part of the text; if that
fails, the string fails where the statement stands.  There, the place where the server waits is the COPY itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING

from thanoproxy.catalog import store
from thanoproxy.errors import Canceled, InternalError, ThanoError, WorkerFailure
from thanoproxy.session.exchange import PATIENCE
from thanoproxy.session.materialise import Refused, refusing
from thanoproxy.session.steps import Gate, Kept, Step
from thanoproxy.sql.source import Source
from thanoproxy.statements.copy_files import filling, making
from thanoproxy.statements.shapes import Import
from thanoproxy.wire import messages
from thanoproxy.wire.messages import ErrorFields
from thanoproxy.wire.pipeline import UpstreamError
from thanoproxy.workers.reading import Reading

if TYPE_CHECKING:
    from thanoproxy.session.attend import Attendant
    from thanoproxy.session.script import Run

__all__ = ["ImportWork", "Imports", "open_all", "run_import"]

Imports = Mapping[Import, Reading | ThanoError]
"""The statements of a string, each with its file, or with what is wrong with that."""

_ABORTED = "25P02"
_OURS = (b"W", b"p", b"q")
"""Fields of an error that tell of text of ours: context, and place and text of an inner query."""


@asynccontextmanager
async def _opened(attendant: Attendant, shape: Import) -> AsyncIterator[Reading]:
    """The file.  Raises what is wrong with it, which points at its name."""
    try:
        reading = await attendant.services.files.open(shape.source, shape.image_col, shape.label_col)
    except (Canceled, InternalError, WorkerFailure):
        raise
    except ThanoError as problem:
        raise problem.at(shape.position) from None
    try:
        yield reading
    finally:
        await reading.close()


async def run_import(attendant: Attendant, shape: Import) -> bytes:
    """Make the table and fill it; the command tag.  Raises `Refused` or `ThanoError`."""
    exchange = attendant.exchange
    async with _opened(attendant, shape) as reading:
        try:
            await exchange.ask(making(shape, reading.fields))
        except UpstreamError as problem:
            raise Refused(_about_the_table(attendant, shape, problem.fields)) from None
        copy = filling(shape, reading.fields, reading.format)
        with refusing(attendant, copy):
            async with aclosing(_rows(shape, reading)) as rows:
                tag = await exchange.copy_in(copy.text, rows)
        if reading.remark is not None:
            exchange.notice(reading.remark)
    return tag


async def _rows(shape: Import, reading: Reading) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(reading.parts()) as parts:
            async for part in parts:
                yield part
    except (InternalError, WorkerFailure):
        raise
    except ThanoError as problem:
        raise problem.at(shape.position) from None


def _about_the_table(attendant: Attendant, shape: Import, fields: ErrorFields) -> ErrorFields:
    """An error of the block that makes the table, as if the client had named it in a statement of its own."""
    shown = ErrorFields({code: value for code, value in fields.fields.items() if code not in _OURS})
    return attendant.translated(shown.with_position(1), Source(shape.table, shape.start))


async def open_all(attendant: Attendant, shapes: Sequence[Import], stack: AsyncExitStack) -> Imports:
    """For statements in a string: their files, which `stack` closes, or what is wrong with them.  Raises `Canceled`."""
    found: dict[Import, Reading | ThanoError] = {}
    if not shapes:
        return found
    async with attendant.stop.during(await attendant.time_limit()):
        for shape in shapes:
            try:
                found[shape] = await stack.enter_async_context(_opened(attendant, shape))
            except ThanoError as problem:
                found[shape] = problem
    return found


class ImportWork:
    """One of these in a string of several statements."""

    def __init__(self, run: Run, shape: Import, reading: Reading | ThanoError) -> None:
        self._run = run
        self._shape = shape
        self._reading = reading
        self._fed = False
        self._make = Kept(run.exchange.codec)
        self._make.shown = self._explain
        self._copy = _Copying(self._passed, self._failed)
        self._copy.shown = self._explain_copy
        self._filling = Source() if isinstance(reading, ThanoError) else filling(shape, reading.fields, reading.format)

    @property
    def steps(self) -> list[Step]:
        return [self._make] if isinstance(self._reading, ThanoError) else [self._make, self._copy]

    @property
    def source(self) -> Source:
        """What is sent in the statement's place."""
        if isinstance(self._reading, ThanoError):
            return Source(store.fail_block(self._reading))
        source = Source(f"{making(self._shape, self._reading.fields)};\n")
        source.extend(self._filling)
        return source

    async def run(self) -> None:
        await asyncio.wait([self._make.done])
        self._make.done.result()
        await self._copy.moved.wait()
        if self._copy.done.done():
            self._copy.done.result()
        try:
            async with self._run.attendant.stop.during():
                await self._feed()
                await asyncio.wait([self._copy.done])
        except ThanoError as problem:
            await self._fail(problem)
        await asyncio.wait([self._copy.done])
        self._copy.done.result()

    async def _fail(self, problem: ThanoError) -> None:
        """Our error to the client, and the end of the string; but once all rows are sent, the answer is the server's."""
        exchange = self._run.exchange
        if not self._copy.done.done() and not self._fed:
            self._run.script.own_error = True
            exchange.client.write(messages.error_response(problem, encoding=exchange.codec))
            exchange.send(messages.copy_fail(problem.message.encode(exchange.codec, "replace")))
            await asyncio.wait([self._copy.done], timeout=PATIENCE)
        if not self._copy.done.done():
            await self._run.attendant.stop.cancel_upstream()

    async def _feed(self) -> None:
        assert isinstance(self._reading, Reading), "else there is no COPY to come to"
        async with aclosing(_rows(self._shape, self._reading)) as rows:
            async for part in rows:
                if self._copy.done.done():
                    return
                self._run.exchange.send(messages.copy_data(part))
                await self._run.exchange.upstream.drained()
        self._fed = True
        self._run.exchange.send(messages.copy_done())

    def _passed(self) -> None:
        exchange = self._run.exchange
        remark = self._reading.remark if isinstance(self._reading, Reading) else None
        if remark is not None:
            exchange.notice(remark)
        exchange.client.write(self._copy.tag)

    def _failed(self) -> None:
        if self._run.current is self:
            self._run.attendant.stop.abandon()

    def _explain(self, fields: ErrorFields) -> bytes:
        exchange = self._run.exchange
        if isinstance(self._reading, ThanoError) and fields.sqlstate != _ABORTED:
            return messages.error_response(self._reading, encoding=exchange.codec)
        return _about_the_table(self._run.attendant, self._shape, fields).encode()

    def _explain_copy(self, fields: ErrorFields) -> bytes:
        return self._run.attendant.translated(fields, self._filling).encode()


class _Copying(Gate):
    """The server waits for the rows; `tag` is its completion."""

    tag = b""

    def take(self, kind: int, frame: bytes) -> bool:
        if kind == ord("C"):
            self.tag = frame
        return super().take(kind, frame)
