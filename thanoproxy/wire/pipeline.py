"""Replies still owed: how our own answers find their place in a pipeline.

Once a statement of ours is in flight, every message that goes upstream leaves an expectation here, in order, that says what its
replies are and where they go.  The server answers in order, so the head of the queue always owns the next message:

    Forward(ends)     a message of the client's; its replies go to the client as they come
    Ready(sync)       a Sync, Query or FunctionCall: everything up to ReadyForQuery goes to the client
    Segment(closes)   what was relayed before we began to look: everything up to our own CloseComplete, which is swallowed
    Collect()         a message of ours; its replies are kept for us and the client never sees them
    Rows(sink)        a portal of ours; DataRows go to the sink, which decorates them

An ErrorResponse ends every expectation up to the next Ready, as the server discards every message up to the next Sync
(protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY): those are aborted, and so is whatever is added before that Ready (`skipping`).

NoticeResponse, ParameterStatus and NotificationResponse may come at any moment and belong to nobody: the caller relays them.
"""

from __future__ import annotations

from asyncio import Future
from collections import deque
from collections.abc import Callable

from thanoproxy.wire.messages import ErrorFields, read_error

__all__ = [
    "ASYNCHRONOUS",
    "REPLY_ENDS",
    "Collect",
    "Expectation",
    "Forward",
    "Pipeline",
    "Ready",
    "Rows",
    "Segment",
    "UpstreamError",
]

ASYNCHRONOUS = frozenset(b"NSA")
_READY, _ERROR, _DATA_ROW = b"ZED"

REPLY_ENDS: dict[int, frozenset[int]] = {
    ord("P"): frozenset(b"1"),
    ord("B"): frozenset(b"2"),
    ord("C"): frozenset(b"3"),
    ord("D"): frozenset(b"Tn"),
    ord("E"): frozenset(b"CsI"),
    ord("S"): frozenset(b"Z"),
}
"""For each extended-protocol message, the types that end its replies (Query and FunctionCall end as Sync does)."""


class UpstreamError(Exception):
    """PostgreSQL refused something that we sent on the client's behalf; `fields` is its own error."""

    def __init__(self, fields: ErrorFields) -> None:
        super().__init__(f"{fields.sqlstate}: {fields.text}")
        self.fields = fields


class SegmentFailed(Exception):
    """An earlier message of the same pipeline failed, so the server skips up to the next Sync and so do we."""


class Expectation:
    """Base: replies that go to the client.  `take` returns whether this was the last of them."""

    __slots__ = ("ends", "forward")

    def __init__(self, ends: frozenset[int], forward: Callable[[bytes], None]) -> None:
        self.ends = ends
        self.forward = forward

    def take(self, kind: int, frame: bytes) -> bool:
        self.forward(frame)
        return kind in self.ends

    def failed(self, frame: bytes) -> None:
        """The server answered with this error; by default it is the client's to see."""
        self.forward(frame)

    def abort(self) -> None:
        """The server will never answer: an earlier message of the pipeline failed."""


class Forward(Expectation):
    """A message of the client's.  `rewrite` may change a frame on its way; `on_abort` hears that it never took effect."""

    __slots__ = ("on_abort", "rewrite")

    def __init__(
        self,
        ends: frozenset[int],
        forward: Callable[[bytes], None],
        rewrite: Callable[[int, bytes], bytes] | None = None,
        on_abort: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(ends, forward)
        self.rewrite = rewrite
        self.on_abort = on_abort

    def take(self, kind: int, frame: bytes) -> bool:
        self.forward(frame if self.rewrite is None else self.rewrite(kind, frame))
        return kind in self.ends

    def failed(self, frame: bytes) -> None:
        self.forward(frame if self.rewrite is None else self.rewrite(_ERROR, frame))
        self.abort()

    def abort(self) -> None:
        if self.on_abort is not None:
            self.on_abort()


class Ready(Expectation):
    """Up to ReadyForQuery, whatever comes.  Only a Sync's ends the skipping after an error: a Query in between is discarded."""

    __slots__ = ("sync",)

    def __init__(self, forward: Callable[[bytes], None], *, sync: bool) -> None:
        super().__init__(REPLY_ENDS[ord("S")], forward)
        self.sync = sync


class Segment(Expectation):
    """The replies to messages that were relayed unseen; the last CloseComplete answers our own Close and is dropped."""

    __slots__ = ("closes",)

    def __init__(self, closes: int, forward: Callable[[bytes], None]) -> None:
        super().__init__(frozenset(), forward)
        self.closes = closes

    def take(self, kind: int, frame: bytes) -> bool:
        if kind == ord("3"):
            if self.closes == 0:
                return True
            self.closes -= 1
        self.forward(frame)
        return False


class Collect(Expectation):
    """Replies to messages of ours: `frames` holds them as (type, body), `done` resolves at the last of `count` endings."""

    __slots__ = ("count", "done", "frames")

    def __init__(self, ends: frozenset[int], done: Future[None], count: int = 1) -> None:
        super().__init__(ends, _nowhere)
        self.done = done
        self.count = count
        self.frames: list[tuple[int, bytes]] = []

    def take(self, kind: int, frame: bytes) -> bool:
        self.frames.append((kind, frame[5:]))
        if kind in self.ends:
            self.count -= 1
        if self.count == 0 and not self.done.done():
            self.done.set_result(None)
        return self.count == 0

    def failed(self, frame: bytes) -> None:
        if not self.done.done():
            self.done.set_exception(UpstreamError(read_error(frame[5:])))

    def abort(self) -> None:
        if not self.done.done():
            self.done.set_exception(SegmentFailed())


class Rows(Collect):
    """A portal of ours: each DataRow's body goes to `sink`, the rest is collected."""

    __slots__ = ("sink",)

    def __init__(self, ends: frozenset[int], done: Future[None], sink: Callable[[bytes], None]) -> None:
        super().__init__(ends, done)
        self.sink = sink

    def take(self, kind: int, frame: bytes) -> bool:
        if kind == _DATA_ROW:
            self.sink(frame[5:])
            return False
        return super().take(kind, frame)


class Pipeline:
    """The queue itself.  `on_idle` is called whenever nothing is owed any more."""

    __slots__ = ("closed", "on_idle", "queue", "skipping", "status")

    def __init__(self, status: int, on_idle: Callable[[], None]) -> None:
        self.queue: deque[Expectation] = deque()
        self.skipping = False
        self.closed = False
        self.status = status
        self.on_idle = on_idle

    def expect(self, expectation: Expectation) -> None:
        """A message went upstream whose replies are `expectation`."""
        if self.skipping:
            if self.closed or not _is_sync(expectation):
                expectation.abort()
                return
            self.skipping = False
        self.queue.append(expectation)

    def take(self, kind: int, frame: bytes) -> None:
        """Dispose of the next message from the server (none of `ASYNCHRONOUS`)."""
        assert self.queue, f"the server sent {chr(kind)!r} though nothing is owed"
        head = self.queue[0]
        if kind == _ERROR:
            head.failed(frame)
            if not isinstance(head, Ready):
                self._skip()
        elif head.take(kind, frame):
            self.queue.popleft()
            if kind == _READY:
                self.status = frame[5]
        if not self.queue:
            self.on_idle()

    def close(self) -> None:
        """The connection is gone; nothing will be answered, whatever is still sent."""
        self.closed = self.skipping = True
        while self.queue:
            self.queue.popleft().abort()

    def _skip(self) -> None:
        self.queue.popleft()
        while self.queue and not _is_sync(self.queue[0]):
            self.queue.popleft().abort()
        self.skipping = not self.queue


def _is_sync(expectation: Expectation) -> bool:
    return isinstance(expectation, Ready) and expectation.sync


def _nowhere(_: bytes) -> None:
    pass
