"""Work that a library does in one call, cut into pieces all the same: so that a solver over millions of rows lets others have the device.

A training yields at its batch boundaries, and a library's solver, which calls us for each value of a function, cannot.  So it runs on a
thread of its own and is held there where it says that it may be, while whoever drives the training goes on.  Only one of the two runs
at any time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import Generic, TypeVar

from thanoproxy.engine.device import Device

__all__ = ["SECONDS", "Pause", "in_pieces"]

Item = TypeVar("Item")
Pause = Callable[[], None]

SECONDS = 0.25
"""Of work before the others' turn: about a batch's time on a CPU.  Who gives way oftener waits for as many turns of theirs."""


def in_pieces(device: Device, make: Callable[[Pause], Iterable[Item]], seconds: float = SECONDS) -> Generator[Item | None, None, None]:
    """The items of `make(pause)`, and None where a call of `pause` gives way.  Closing it ends the work at its next `pause`."""
    work = _Work(device, make, seconds)
    try:
        while work.go_on():
            yield work.item
    finally:
        work.end()


class _Stopped(BaseException):
    """Nobody wants the rest."""


class _Work(Generic[Item]):
    def __init__(self, device: Device, make: Callable[[Pause], Iterable[Item]], seconds: float) -> None:
        self.item: Item | None = None
        self._device = device
        self._make = make
        self._seconds = seconds
        self._ours, self._theirs = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._stopped = self._over = False
        self._since = 0.0
        self._thread = threading.Thread(target=self._run, name="pieces", daemon=True)
        self._thread.start()

    def go_on(self) -> bool:
        """Let it work until it has an item or gives way; whether it did.  Raises what it raised."""
        self.item = None
        self._theirs.release()
        self._ours.acquire()
        if self._error is not None:
            raise self._error
        return not self._over

    def end(self) -> None:
        self._stopped = True
        self._theirs.release()
        self._thread.join()

    def _run(self) -> None:
        self._theirs.acquire()
        try:
            if not self._stopped:
                self._device.enter()
                self._device.use_threads()
                self._since = time.monotonic()
                for item in self._make(self._pause):
                    self.item = item
                    self._give_way()
        except _Stopped:
            pass
        except BaseException as error:  # whoever drives it is told
            self._error = error
        self._over = True
        self._ours.release()

    def _pause(self) -> None:
        if time.monotonic() - self._since >= self._seconds:
            self._give_way()

    def _give_way(self) -> None:
        self._ours.release()
        self._theirs.acquire()
        if self._stopped:
            raise _Stopped
        self._since = time.monotonic()
