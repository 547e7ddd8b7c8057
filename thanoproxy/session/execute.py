"""Running a statement of ours on the client's connection: what is common to the simple and the extended protocol.

Every function here is called with the inner query's portal bound upstream, raises `ThanoError` for a failure of ours and
`UpstreamError` for one of PostgreSQL's, and leaves the connection with no rows on their way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from thanoproxy.catalog import store
from thanoproxy.errors import Canceled, ThanoError
from thanoproxy.session.collect import JobRun, job_run
from thanoproxy.session.decorate import RowStream, appended, completion, warn
from thanoproxy.session.exchange import Exchange
from thanoproxy.session.reporting import Audience
from thanoproxy.session.services import Services
from thanoproxy.session.summarise import answer_fields, evaluating, summary_stream
from thanoproxy.statements.shapes import Collect, Decorate, Decoration, Summarise, Summary
from thanoproxy.wire import messages
from thanoproxy.wire.messages import Column
from thanoproxy.wire.pipeline import Rows, SegmentFailed, UpstreamError

__all__ = [
    "SETTINGS",
    "Identity",
    "Stop",
    "collect",
    "decorate",
    "heeded",
    "open_decoration",
    "pump",
    "result_row",
    "seconds_of",
    "statement_timeout",
    "summarise",
]

SETTINGS = "SELECT pg_catalog.current_setting('statement_timeout'), pg_catalog.current_setting('client_min_messages')"
"""What of the client's settings governs our part of a statement: `heeded` takes the answer."""

_ABANDONED = "failure of the server"
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


class Identity:
    """Who a session is, as the start-up said: for the job log and for cancelling upstream."""

    __slots__ = ("backend_pid", "database", "key", "user")

    def __init__(self, user: str, database: str) -> None:
        self.user = user
        self.database = database
        self.backend_pid = 0
        self.key = b""


async def open_decoration(exchange: Exchange, services: Services, shape: Decorate, inner: Sequence[Column]) -> Decoration:
    """Resolve the model in the client's own transaction and with its rights."""
    return shape.open(await exchange.first(shape.lookup()), inner, exchange.codec, services.seal)


async def decorate(exchange: Exchange, services: Services, decoration: Decoration, portal: bytes, limit: int, stop: Stop) -> None:
    """Execute `portal` and write its rows, decorated, and how it ended to the client."""
    stream = RowStream(decoration, services.pool, exchange.upstream, exchange.client, appended(decoration))
    kind, body = await pump(exchange, stream, portal, limit, stop)
    if kind != ord("C"):
        exchange.client.write(messages.message(bytes((kind,)), body))
        return
    warn(decoration, exchange)
    exchange.client.write(completion(decoration, body[:-1]))


async def summarise(
    exchange: Exchange, services: Services, shape: Summarise, inner: Sequence[Column], portal: bytes, audience: Audience, stop: Stop
) -> Summary:
    """Execute `portal` and count what the model makes of its rows."""
    summary = shape.open(await exchange.first(shape.lookup()), inner, exchange.codec, services.seal)
    stream = summary_stream(summary, services, exchange.upstream)
    async with evaluating(summary, stream, audience, stop):
        await pump(exchange, stream, portal, 0, stop)
    return summary


async def pump(exchange: Exchange, stream: RowStream, portal: bytes, limit: int, stop: Stop) -> tuple[int, bytes]:
    """Execute `portal` and see its rows through `stream`; return the server's completion."""
    rows = exchange.rows(portal, limit, stream.feed)
    rows.done.add_done_callback(stream.end)
    try:
        await stream.run()
        await _finished(rows)
    except BaseException as problem:
        stream.drop()
        await _stop(exchange, rows, stop, problem)
        raise
    return rows.frames[-1]


async def collect(
    exchange: Exchange,
    services: Services,
    shape: Collect,
    found: Sequence[str | None] | None,
    inner: Sequence[Column],
    portal: bytes,
    audience: Audience,
    stop: Stop,
) -> list[object]:
    """Execute `portal`, run the job on its rows, register the result; the values of the row that answers."""
    run = job_run(shape.open(found, inner, exchange.codec, services.seal), services, audience)
    try:
        async with stop.told(run.failed):
            await _read(exchange, portal, run, stop)
            await run.run()
            record = run.record()
            if record is not None:
                await exchange.ask(store.register_model(record))
            await run.registered()
    finally:
        run.discard()
    return list(run.summary())


async def _read(exchange: Exchange, portal: bytes, run: JobRun, stop: Stop) -> None:
    rows = exchange.rows(portal, 0, run.feed)
    try:
        await run.fed(rows.done)
    except BaseException as problem:
        await _stop(exchange, rows, stop, problem)
        raise
    # Close the portal now: with it goes the snapshot that would hold back vacuum for as long as the training lasts.
    await exchange.swallow(messages.close(b"P", portal), b"3")


def result_row(shape: Collect, values: Sequence[object], formats: Sequence[int], codec: str) -> bytes:
    """The DataRow that answers a statement that collects."""
    return messages.data_row(answer_fields(shape.result, values, formats, codec))


class Stop:
    """How a statement of ours is stopped from outside: by the user, by statement_timeout, or because the client went away.

    `during` marks the part that may be stopped; a cancel that comes when nothing runs, or late, must not hit the next statement.
    """

    def __init__(self, cancel_upstream: Callable[[], Awaitable[None]]) -> None:
        self.cancel_upstream = cancel_upstream
        self._task: asyncio.Task[None] | None = None
        self._reason = ""
        self._known = False

    @property
    def running(self) -> bool:
        return self._task is not None

    def __call__(self, reason: str) -> None:
        """Stop what runs now, if anything does."""
        if self._task is not None and not self._reason and not self._known:
            self._reason = reason
            self._task.cancel()

    def abandon(self) -> None:
        """Stop without an error of ours: the server has failed already, and the client has been told."""
        self(_ABANDONED)

    @asynccontextmanager
    async def told(self, failed: Callable[[ThanoError | UpstreamError], Awaitable[None]]) -> AsyncIterator[None]:
        """A part of the statement of which `failed` is told why it ended, if it ends too early.

        While it is told, nothing can stop the statement any more: the user's cancel comes to the server first, and to us behind the
        server's error, which is then the client's to see.
        """
        try:
            yield
        except (ThanoError, UpstreamError, SegmentFailed) as problem:
            self._known = True
            await failed(self._problem if isinstance(problem, SegmentFailed) else problem)
            raise
        except asyncio.CancelledError:
            await asyncio.shield(failed(self._problem))
            raise

    @property
    def _problem(self) -> Canceled:
        return Canceled(f"canceling statement due to {self._reason or 'the end of the session'}")

    @asynccontextmanager
    async def during(self, seconds: float = 0) -> AsyncIterator[None]:
        """The statement; `seconds` is its statement_timeout, 0 for none.  Raises `Canceled` where it was stopped."""
        task: asyncio.Task[None] | None = asyncio.current_task()
        assert task is not None, "statements run in the session's task"
        self._task, self._reason, self._known = task, "", False
        timer = asyncio.get_running_loop().call_later(seconds, self, "statement timeout") if seconds else None
        try:
            yield
        except asyncio.CancelledError:
            if not self._reason:
                raise
            task.uncancel()
            if self._reason == _ABANDONED:
                raise SegmentFailed from None
            raise self._problem from None
        finally:
            self._task = None
            if timer is not None:
                timer.cancel()


async def _finished(rows: Rows) -> None:
    # Not `await rows.done`: a cancel would cancel the future too, and with it what tells when the rows have run out.
    await asyncio.wait([rows.done])
    rows.done.result()


async def _stop(exchange: Exchange, rows: Rows, stop: Stop, problem: BaseException) -> None:
    """Let rows that still come run out unused; upstream is asked to stop, and its answer, whatever it is, is awaited."""
    rows.sink = _nowhere
    if not rows.done.done():
        await stop.cancel_upstream()
        await asyncio.wait([rows.done])
    # (Retrieved also so that asyncio does not report an error that nobody needs any more.)  The server may have failed by itself just
    # before: its statement_timeout is ours, too.  Then it is `problem` that the client is told, and the server has failed already.
    failed = isinstance(rows.done.exception(), UpstreamError)
    exchange.stopped = failed and not isinstance(problem, UpstreamError)


def _nowhere(_: bytes) -> None:
    pass


async def statement_timeout(exchange: Exchange) -> float:
    """Seconds of the client's statement_timeout, 0 if there is none.

    PostgreSQL's own timer stops with its last row, so our part is timed by us.
    """
    return heeded(exchange, await exchange.ask(SETTINGS))


def heeded(exchange: Exchange, rows: Sequence[Sequence[str | None]]) -> float:
    """The same where the server has answered `SETTINGS`; from now on the client hears of us what it wants to hear."""
    ((timeout, client_min_messages),) = rows
    exchange.client_min_messages = client_min_messages or "notice"
    return seconds_of(timeout or "0")


def seconds_of(setting: str) -> float:
    """A duration as SHOW prints it ('0', '250ms', '5s', '2min'), in seconds."""
    digits = setting.rstrip("abcdefghijklmnopqrstuvwxyz")
    return float(digits or 0) * _UNITS.get(setting[len(digits) :], 1e-3)
