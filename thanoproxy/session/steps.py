"""The steps of a string of statements, and what each does with the replies that are its own.

`thanoproxy.session.script` lays them out and follows behind; here is what happens in the callback, as replies come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from thanoproxy.errors import ThanoError
from thanoproxy.wire import messages
from thanoproxy.wire.messages import Column, ErrorFields
from thanoproxy.wire.pipeline import Ready, SegmentFailed, UpstreamError

__all__ = ["Gate", "Inner", "Kept", "Relayed", "Script", "Step", "nowhere"]


class Step:
    """One statement of the string that is sent.  `done` resolves at its end; `shown` makes of an error what the client sees."""

    def __init__(self) -> None:
        self.shown: Callable[[ErrorFields], bytes] | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.moved = asyncio.Event()

    def take(self, kind: int, frame: bytes) -> bool:
        """One reply; True if it was the statement's last."""
        raise NotImplementedError

    def finish(self, problem: Exception | None) -> None:
        if not self.done.done():
            if problem is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(problem)
                self.done.exception()
        self.moved.set()


class Relayed(Step):
    """A statement of the client's own, or (`ours`) a rewritten one; `copying` is set where it waits for the client's COPY data."""

    def __init__(self, forward: Callable[[bytes], None], rewrite: Callable[[int, bytes], bytes], *, ours: bool = False) -> None:
        super().__init__()
        self.ours = ours
        self.forward = forward
        self.rewrite = rewrite
        self.copying = False

    def take(self, kind: int, frame: bytes) -> bool:
        self.forward(self.rewrite(kind, frame))
        if kind == ord("G"):
            self.copying = True
            self.moved.set()
        return kind in b"CI"


class Kept(Step):
    """A question of ours; its rows are kept."""

    def __init__(self, codec: str) -> None:
        super().__init__()
        self.codec = codec
        self.rows: list[list[str | None]] = []

    def take(self, kind: int, frame: bytes) -> bool:
        if kind == ord("D"):
            values = messages.read_data_row(frame[5:])
            self.rows.append([None if v is None else v.decode(self.codec, "replace") for v in values])
        return kind == ord("C")


class Inner(Step):
    """An inner query.  `begin` is told its columns as they come and returns where its rows go."""

    def __init__(self, begin: Callable[[tuple[Column, ...]], Callable[[bytes], None]]) -> None:
        super().__init__()
        self.begin = begin
        self.sink: Callable[[bytes], None] = nowhere
        self.problem: ThanoError | None = None
        self.described = False
        self.tag = b""

    def take(self, kind: int, frame: bytes) -> bool:
        if kind == ord("T"):
            self.described = True
            try:
                self.sink = self.begin(messages.read_row_description(frame[5:]))
            except ThanoError as problem:
                self.problem = problem
            self.moved.set()
        elif kind == ord("D"):
            self.sink(frame[5:])
        elif kind == ord("C"):
            self.tag = frame
            self.moved.set()
        return kind == ord("C")


class Gate(Step):
    """The server waits for us: `moved` is set when it does.  `passed` runs as it closes, before any reply to what follows;
    `failed` runs where the string failed here or before, since nothing may be written behind its error."""

    def __init__(self, passed: Callable[[], None], failed: Callable[[], None]) -> None:
        super().__init__()
        self.passed = passed
        self.failed = failed

    def take(self, kind: int, frame: bytes) -> bool:
        if kind == ord("G"):
            self.moved.set()
        elif kind == ord("C"):
            self.passed()
        return kind == ord("C")

    def finish(self, problem: Exception | None) -> None:
        if problem is not None:
            self.failed()
        super().finish(problem)


class Script(Ready):
    """What the one Query owes.  `own_error` says that the next error is the one we asked for, which the client has already seen."""

    __slots__ = ("at", "own_error", "show", "steps")

    def __init__(self, forward: Callable[[bytes], None], show: Callable[[bytes, Step | None], None]) -> None:
        super().__init__(forward, sync=False)
        self.steps: list[Step] = []
        self.at = 0
        self.own_error = False
        self.show = show

    @property
    def step(self) -> Step | None:
        return self.steps[self.at] if self.at < len(self.steps) else None

    def take(self, kind: int, frame: bytes) -> bool:
        step = self.step
        if kind == ord("Z"):
            self._end(SegmentFailed())
            self.forward(frame)
            return True
        if step is None:
            self.forward(frame)
        elif step.take(kind, frame):
            step.finish(None)
            self.at += 1
        return False

    def failed(self, frame: bytes) -> None:
        step = self.step
        self._end(UpstreamError(messages.read_error(frame[5:])))
        if not self.own_error:
            self.show(frame, step)

    def abort(self) -> None:
        self._end(SegmentFailed())

    def _end(self, problem: Exception) -> None:
        for step in self.steps[self.at :]:
            step.finish(problem)
        self.at = len(self.steps)


def nowhere(_: bytes) -> None:
    """A sink for rows that nobody needs any more."""
