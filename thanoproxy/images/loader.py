"""Reading and decoding on threads, a little ahead of whoever needs the pixels.

Reading files, decoding and resizing all release the GIL, so threads keep the cores busy while the device computes.  Work is
taken by priority (lower first), then in the order it came: an interactive request overtakes a bulk one that was queued earlier.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, wait
from functools import partial
from typing import Generic, TypeVar

__all__ = ["LoaderThreads", "ordered"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class LoaderThreads:
    """A fixed number of threads with one queue ordered by priority.

    `on_start` runs first on each thread, and all have run it when the constructor returns; `on_end` runs last.
    """

    def __init__(self, threads: int, on_start: Callable[[], None] = lambda: None, on_end: Callable[[], None] = lambda: None) -> None:
        self.count = threads
        self._on_end = on_end
        self._queue: queue.PriorityQueue[_Task[object] | _Stop] = queue.PriorityQueue()
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

    def submit(self, work: Callable[[], Result], priority: int = 0) -> Future[Result]:
        """Run `work` on a thread.  A future cancelled before its turn costs nothing."""
        task = _Task(priority, next(self._order), work)
        self._queue.put(task)  # type: ignore[arg-type]
        return task.future

    def at_work(self) -> dict[int, int]:
        """Of each thread that has work, which."""
        return self._at_work.copy()

    def close(self) -> None:
        """Finish what runs, drop what waits."""
        for _ in self._threads:
            self._queue.put(_Stop())
        for thread in self._threads:
            thread.join()
        while not self._queue.empty():
            task = self._queue.get_nowait()
            if isinstance(task, _Task):
                task.future.cancel()

    def _run(self, index: int, on_start: Callable[[], None], started: threading.Barrier) -> None:
        on_start()
        started.wait()
        while isinstance(task := self._queue.get(), _Task):
            self._at_work[index] = task.key[1]
            task.run()
            del self._at_work[index]
            del task  # a waiting thread must not keep the last image alive
        self._on_end()


class _Task(Generic[Result]):
    def __init__(self, priority: int, order: int, work: Callable[[], Result]) -> None:
        self.key = (priority, order)
        self.work = work
        self.future: Future[Result] = Future()

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self.work())
        except BaseException as error:  # the future hands it to whoever waits
            self.future.set_exception(error)

    def __lt__(self, other: object) -> bool:
        return isinstance(other, _Task) and self.key < other.key


class _Stop:
    """Comes before every task."""

    def __lt__(self, other: object) -> bool:
        return True


def ordered(
    threads: LoaderThreads, items: Iterable[Item], work: Callable[[Item], Result], *, ahead: int, priority: int = 0
) -> Generator[Future[Result], None, None]:
    """The futures of `work(item)` in the order of `items`, each finished when it is given, at most `ahead` of them under way.

    Closing the iterator cancels what has not begun.
    """
    waiting: deque[Future[Result]] = deque()
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
