"""Reading and decoding on threads, a little ahead of whoever needs the pixels.

Reading files, decoding and resizing all release the GIL, so threads keep the cores busy while the device computes.  Work is
taken by priority (lower first), then in the order it came: an interactive request overtakes a bulk one that was queued earlier.  But
nobody starves: `PATIENCE` says how many in a row may overtake.

What has to wait for another machine must not keep a thread: such work is a generator, that is written as if it waited, and yields how
to begin what it waits for.  Its thread does something else until the future is there, and then goes on with it.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, Generic, TypeVar, overload

__all__ = ["PATIENCE", "Begin", "LoaderThreads", "Steps", "finish", "ordered"]

PATIENCE = 16
"""How many pieces of work in a row may pass over one that waits with a higher number."""

Item = TypeVar("Item")
Result = TypeVar("Result")

Begin = Callable[[int], Future[Any]]
"""Begins something elsewhere with a priority.  To cancel the future abandons it."""

Steps = Generator[Begin, Any, Result]
"""Work that waits for what it yields; what that comes to is sent, or thrown, into it."""


def finish(steps: Steps[Result]) -> Result:
    """What `steps` come to, on this thread."""
    try:
        begin = next(steps)
        while True:
            try:
                arrived = begin(0).result()
            except Exception as error:
                begin = steps.throw(error)
            else:
                begin = steps.send(arrived)
    except StopIteration as end:
        result: Result = end.value
        return result


class LoaderThreads:
    """A fixed number of threads with one queue ordered by priority.

    `on_start` runs first on each thread, and all have run it when the constructor returns; `on_end` runs last.
    """

    def __init__(self, threads: int, on_start: Callable[[], None] = lambda: None, on_end: Callable[[], None] = lambda: None) -> None:
        self.count = threads
        self._on_end = on_end
        self._queue = _Queue()
        self._order = itertools.count()
        self._at_work: dict[int, int] = {}
        started = threading.Barrier(threads + 1)
        self._threads = [
            threading.Thread(target=self._run, args=(index, on_start, started), name=f"loader-{index}", daemon=True)
            for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()
        started.wait()

    @overload
    def submit(self, work: Callable[[], Steps[Result]], priority: int = 0) -> Future[Result]: ...

    @overload
    def submit(self, work: Callable[[], Result], priority: int = 0) -> Future[Result]: ...

    def submit(self, work: Callable[[], Any], priority: int = 0) -> Future[Any]:
        """Run `work` on a thread, and the steps where it gives some.  A future cancelled before its turn costs nothing; one that is
        cancelled later abandons what its steps wait for, and the rest of them."""
        task = _Task(priority, next(self._order), work, self._queue.put)
        self._queue.put(task)
        return task.future

    def at_work(self) -> dict[int, int]:
        """Of each thread that has work, which."""
        return self._at_work.copy()

    def close(self) -> None:
        """Finish what runs, drop what waits."""
        waiting = self._queue.close()
        for thread in self._threads:
            thread.join()
        for task in waiting:
            task.future.cancel()

    def _run(self, index: int, on_start: Callable[[], None], started: threading.Barrier) -> None:
        on_start()
        started.wait()
        while (task := self._queue.get()) is not None:
            self._at_work[index] = task.key[1]
            task.run()
            del self._at_work[index]
            del task  # a waiting thread must not keep the last image alive
        self._on_end()


class _Pending(Future[Result]):
    """Counts as running only at the very end, so that it can be cancelled until then, and with it what its work waits for."""

    awaited: Future[Any] | None = None

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if cancelled and (awaited := self.awaited) is not None:
            awaited.cancel()
        return cancelled


class _Task(Generic[Result]):
    """`again` puts it into the queue once more."""

    def __init__(self, priority: int, order: int, work: Callable[[], Any], again: Callable[[_Task[Result]], None]) -> None:
        self.key = (priority, order)
        self.work = work
        self.future: _Pending[Result] = _Pending()
        self._again = again
        self._steps: Steps[Result] | None = None

    def run(self) -> None:
        if self.future.cancelled():
            if self._steps is not None:
                self._steps.close()
            self.future.set_running_or_notify_cancel()
            return
        try:
            if self._steps is None:
                found = self.work()
                if not isinstance(found, Generator):
                    self._end(found, None)
                    return
                self._steps = found
                begin = next(found)
            else:
                begin = self._resume(self._steps)
        except BaseException as error:  # the future hands it to whoever waits
            if isinstance(error, StopIteration) and self._steps is not None:
                self._end(error.value, None)
            else:
                self._end(None, error)
        else:
            self._wait_for(begin)

    def _resume(self, steps: Steps[Result]) -> Begin:
        awaited, self.future.awaited = self.future.awaited, None
        assert awaited is not None, "it has waited for something"
        error = awaited.exception()
        return steps.send(awaited.result()) if error is None else steps.throw(error)

    def _wait_for(self, begin: Begin) -> None:
        try:
            awaited = begin(self.key[0])
        except BaseException as error:
            awaited = Future()
            awaited.set_exception(error)
        self.future.awaited = awaited
        if self.future.cancelled():  # since it was looked at
            awaited.cancel()
        awaited.add_done_callback(lambda _: self._again(self))  # the last word: another thread may go on at once

    def _end(self, result: Result | None, error: BaseException | None) -> None:
        self._steps = None
        if not self.future.set_running_or_notify_cancel():
            return
        if error is None:
            self.future.set_result(result)  # type: ignore[arg-type]
        else:
            self.future.set_exception(error)

    def __lt__(self, other: object) -> bool:
        return isinstance(other, _Task) and self.key < other.key


class _Queue:
    """Tasks that wait for a thread: a heap for each priority.  Once it is closed, none is given any more."""

    def __init__(self) -> None:
        self._heaps: dict[int, list[_Task[Any]]] = {}
        self._passed = 0
        self._closed = False
        self._changed = threading.Condition(threading.Lock())

    def put(self, task: _Task[Any]) -> None:
        with self._changed:
            if not self._closed:
                heapq.heappush(self._heaps.setdefault(task.key[0], []), task)
                self._changed.notify()
                return
        task.future.cancel()

    def get(self) -> _Task[Any] | None:
        """The next one, waiting for it; None once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._heaps or self._closed)
            if self._closed:
                return None
            priority = self._whose_turn()
            task = heapq.heappop(self._heaps[priority])
            if not self._heaps[priority]:
                del self._heaps[priority]
            return task

    def close(self) -> list[_Task[Any]]:
        """Those that waited."""
        with self._changed:
            waiting = [task for heap in self._heaps.values() for task in heap]
            self._heaps.clear()
            self._closed = True
            self._changed.notify_all()
            return waiting

    def _whose_turn(self) -> int:
        first, *others = sorted(self._heaps)
        if not others:
            self._passed = 0
            return first
        self._passed += 1
        if self._passed <= PATIENCE:
            return first
        self._passed = 0
        return min(others, key=lambda priority: self._heaps[priority][0].key[1])  # who came first


def ordered(
    threads: LoaderThreads, items: Iterable[Item], work: Callable[[Item], Any], *, ahead: int, priority: int = 0
) -> Generator[Future[Any], None, None]:
    """The futures of `work(item)` in the order of `items`, each finished when it is given, at most `ahead` of them under way.

    Closing the iterator cancels what has not begun, and what waits.
    """
    waiting: deque[Future[Any]] = deque()
    source = iter(items)
    try:
        for item in itertools.islice(source, ahead):
            waiting.append(threads.submit(partial(work, item), priority))
        while waiting:
            done = waiting.popleft()
            wait([done])
            for item in itertools.islice(source, 1):
                waiting.append(threads.submit(partial(work, item), priority))
            yield done
    finally:
        for future in waiting:
            future.cancel()
