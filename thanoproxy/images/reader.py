"""Reads that are on their way over the network: one thread for all of them, since they only wait.

A read takes longer by waiting than by anything that a core does, so there are many more of them at once than loader threads. Those that
are let in are chosen by priority (lower first), then in the order they came; but no place (a host, a bucket) has more than three
quarters of them, so that one that does not answer does not stop the others.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

from thanoproxy.errors import WorkerFailure

__all__ = ["Reader"]

Work = Callable[[], Awaitable[Any]]


TLS_END_SECONDS = 0.1


class _Loop(asyncio.SelectorEventLoop):
    """Does not wait for the other side to end TLS politely: asyncio does for 30 seconds, and reads on as long."""

    async def create_connection(self, *args: Any, **options: Any) -> Any:
        if options.get("ssl") is not None:
            options.setdefault("ssl_shutdown_timeout", TLS_END_SECONDS)
        return await super().create_connection(*args, **options)


class _Read(NamedTuple):
    """Sorted as it is; no two have the same `order`."""

    priority: int
    order: int
    place: str
    work: Work
    future: Future[Any]


class Reader:
    """At most `reads` at once.  The thread starts with the first of them."""

    def __init__(self, reads: int) -> None:
        self._reads = reads
        self._of_one_place = max(1, reads - reads // 4)
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._at_end: list[Callable[[], Awaitable[Any]]] = []
        # Of the loop alone.
        self._waiting: dict[str, list[_Read]] = {}
        self._going: dict[int, asyncio.Task[None]] = {}
        self._places: Counter[str] = Counter()

    def begin(self, work: Work, place: str, priority: int) -> Future[Any]:
        """Await `work()` on the reader's loop once it is its turn.  A future that is cancelled abandons the read, wherever it is."""
        read = _Read(priority, next(self._order), place, work, Future())
        with self._lock:
            if self._closed:
                read.future.set_exception(_closing())
                return read.future
            loop = self._running()
            loop.call_soon_threadsafe(self._arrive, read)
        read.future.add_done_callback(lambda future: self._abandon(read) if future.cancelled() else None)
        return read.future

    def at_end(self, work: Callable[[], Awaitable[Any]]) -> None:
        """Have `work()` awaited when the reader closes; called on its loop."""
        self._at_end.append(work)

    def close(self) -> None:
        """End what is on its way; from now on nothing begins."""
        with self._lock:
            was_closed, self._closed = self._closed, True
        if was_closed or self._loop is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = _Loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="reader", daemon=True)
            self._thread.start()
        return self._loop

    # On the loop.

    def _arrive(self, read: _Read) -> None:
        heapq.heappush(self._waiting.setdefault(read.place, []), read)
        self._let_in()

    def _let_in(self) -> None:
        while len(self._going) < self._reads:
            free = [reads[0] for place, reads in self._waiting.items() if self._places[place] < self._of_one_place]
            if not free:
                return
            read = min(free)
            of_place = self._waiting[read.place]
            heapq.heappop(of_place)
            if not of_place:
                del self._waiting[read.place]
            if not read.future.cancelled():
                self._places[read.place] += 1
                self._going[read.order] = task = asyncio.get_running_loop().create_task(self._go(read))
                task.add_done_callback(partial(self._gone, read))  # also of one cancelled before it began

    async def _go(self, read: _Read) -> None:
        try:
            result = await read.work()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # the future hands it to whoever waits
            if read.future.set_running_or_notify_cancel():
                read.future.set_exception(error)
        else:
            if read.future.set_running_or_notify_cancel():
                read.future.set_result(result)

    def _gone(self, read: _Read, _: asyncio.Task[None]) -> None:
        if not read.future.done():  # cancelled, and not by whom it is for
            _fail(read)
        del self._going[read.order]
        self._places[read.place] -= 1
        if not self._places[read.place]:
            del self._places[read.place]
        self._let_in()

    def _abandon(self, read: _Read) -> None:
        def cancel() -> None:
            if (task := self._going.get(read.order)) is not None:
                task.cancel()

        with self._lock:
            if not self._closed and self._loop is not None:
                self._loop.call_soon_threadsafe(cancel)

    async def _end(self) -> None:
        waiting = [read for reads in self._waiting.values() for read in reads]
        self._waiting.clear()
        for read in waiting:
            _fail(read)
        tasks = list(self._going.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for work in self._at_end:
            await work()
        if self._at_end:
            await asyncio.sleep(2 * TLS_END_SECONDS)


def _fail(read: _Read) -> None:
    if read.future.set_running_or_notify_cancel():
        read.future.set_exception(_closing())


def _closing() -> WorkerFailure:
    return WorkerFailure("the worker is being stopped")
