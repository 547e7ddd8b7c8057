"""Where messages begin and end: the only code that every relayed byte passes through.

A relayed message never becomes an object.  Each direction has a walk that is fed what arrived and answers one number: how many of
these bytes may go on at once.  The rest (an unfinished header, an unfinished text that may be ours, or a message that needs
attention) is held by the caller and fed again with what follows it.

What the walks learn on the way is all that the relay needs to hand over to the state machine in `thanoproxy.session.attend`
between any two messages: the transaction status, the settings that govern lexing, and how many replies are still owed.

    FrontendWalk   client -> server   stops before a Query or Parse that may be ours (`candidate`)
    BackendWalk    server -> client   sees ReadyForQuery, ParameterStatus, CopyInResponse; skips all else by its length

Lengths are never trusted with an allocation: a message that is only relayed is skipped, whatever it claims, and a length that is
no length (< 4) makes the walk blind, so that the server answers as it would have (it closes the connection).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct

__all__ = ["HEADER", "LARGEST_TEXT", "BackendWalk", "Flow", "FrontendWalk", "Into", "Marks", "Owed", "Sink", "split_frames"]

HEADER = Struct("!BI")

LARGEST_TEXT = 1 << 20
"""Bytes: a Query or Parse longer than this is relayed without a look; nobody writes a BUILD MODEL of a megabyte, and a 200 MB INSERT
must not be held back."""

_LARGEST_STATUS = 1 << 16

QUERY, PARSE, SYNC, FUNCTION_CALL = b"QPSF"
COPY_DONE, COPY_FAIL, COPY_DATA, CLOSE, LOGIN = b"cfdCp"
READY, PARAMETER_STATUS, COPY_IN, COPY_BOTH, KEY_DATA, CLOSE_COMPLETE, ERROR = b"ZSGWK3E"


class Marks:
    """The bytes test, which is all that ordinary SQL pays for our statements: does a text hold one of `words`, in any case?

    Sessions share one, and `change` reaches them all.  `search.pyx` has the same in C.
    """

    __slots__ = ("edition", "words")

    def __init__(self, words: tuple[bytes, ...]) -> None:
        """`words` are in upper case, as far as they are ASCII."""
        self.words = words
        self.edition = 0

    def change(self, words: tuple[bytes, ...]) -> None:
        """From now on it looks for these."""
        self.words = words
        self.edition += 1

    def found(self, data: bytes, start: int, end: int) -> bool:
        """Whether one of them stands in `data` between `start` and `end`."""
        upper = data[start:end].upper()
        for word in self.words:  # noqa: SIM110 - any() would cost a generator on every query
            if upper.find(word) >= 0:  # `in` first tries its operand as an integer, by way of an exception
                return True
        return False


class Owed:
    """The ReadyForQuery messages still owed, and what was sent since the last of them was asked for.

    `ready` has one byte for each Query, Sync and FunctionCall not yet answered, in order, with a `c` where the client ended a COPY.
    `unsynced` counts messages after the last of those, `closes` the Close messages among them.
    """

    __slots__ = ("closes", "closes_done", "failed", "in_copy", "ready", "unsynced")

    def __init__(self) -> None:
        self.clear()
        self.ready.append(QUERY)  # the start-up's own ReadyForQuery

    def clear(self) -> None:
        """Nothing is owed."""
        self.ready = bytearray()
        self.unsynced = 0
        self.closes = 0
        self.closes_done = 0
        self.failed = False
        self.in_copy = False

    def ask(self, kind: int) -> None:
        """A Query, Sync or FunctionCall goes upstream."""
        if self.in_copy and kind == SYNC:
            return  # the server ignores Sync while it copies in (protocol-flow.html#PROTOCOL-COPY)
        self.ready.append(kind)
        self.unsynced = self.closes = 0

    def end_copy(self) -> None:
        """CopyDone or CopyFail goes upstream; it may also be a late one, after the server's error, which counts for nothing."""
        self.in_copy = False
        if self.ready:
            self.ready.append(COPY_DONE)

    def answered(self) -> None:
        """A ReadyForQuery came."""
        if len(self.ready) == 1 and self.ready[0] != COPY_DONE:
            self.ready.clear()  # nearly always
        while self.ready and self.ready.pop(0) == COPY_DONE:
            pass
        while self.ready and self.ready[0] == COPY_DONE:
            del self.ready[0]
        self.closes_done = 0
        self.failed = False
        self.in_copy = False

    def copying(self) -> None:
        """The server switched to copy-in.

        Replies come in order, so what is first in `ready` is either the Query that copies, or a Sync sent behind the Execute that
        copies; that Sync and its followers up to the end of the copy are ignored by the server and will not be answered.
        """
        head = 1 if self.ready[:1] == b"Q" else 0
        end = self.ready.find(COPY_DONE)
        ended = end >= 0
        kept = self.ready[end + 1 :] if ended else b""
        self.ready[head:] = bytes(kept)
        self.in_copy = not ended


class Walk:
    """One direction's messages.  `candidate` says that the walk stands before a whole message to attend to (never the server's)."""

    __slots__ = ("candidate",)

    def __init__(self) -> None:
        self.candidate = False

    def walk(self, data: bytes) -> int:
        """How many of `data`'s bytes may go on now."""
        raise NotImplementedError


class FrontendWalk(Walk):
    """The client's messages.  `marks` is the bytes test on Query and Parse; `concerns(kind, data, start, end)` is asked
    about every other message while statements of ours exist on this connection (None: they do not)."""

    __slots__ = ("blind", "concerns", "marks", "owed", "skip")

    def __init__(self, owed: Owed, marks: Marks) -> None:
        super().__init__()
        self.owed = owed
        self.marks = marks
        self.concerns: Callable[[int, bytes, int, int], bool] | None = None
        self.skip = 0
        self.blind = False

    def walk(self, data: bytes) -> int:
        """How many of `data`'s bytes go upstream now.  With `candidate` set, the rest begins with a whole message to attend to."""
        size = len(data)
        pos = self.skip
        if pos > size or self.blind:
            self.skip = max(0, pos - size)
            return size
        owed = self.owed
        while size - pos >= 5:
            kind = data[pos]
            length = data[pos + 1] << 24 | data[pos + 2] << 16 | data[pos + 3] << 8 | data[pos + 4]
            if length < 4:
                self.blind = True
                return size
            end = pos + 1 + length
            if kind in (QUERY, PARSE):
                if length <= LARGEST_TEXT:
                    if end > size:
                        break
                    if self.marks.found(data, pos + 5, end) or (self.concerns and self.concerns(kind, data, pos + 5, end)):
                        self.candidate = True
                        break
                if kind == QUERY:
                    owed.ask(kind)
                else:
                    owed.unsynced += 1
            elif kind in (SYNC, FUNCTION_CALL):
                owed.ask(kind)
            elif kind in (COPY_DONE, COPY_FAIL):
                owed.end_copy()
            elif kind not in (COPY_DATA, LOGIN):  # neither has a reply that a ReadyForQuery ends
                if self.concerns is not None:
                    if end > size and length <= LARGEST_TEXT:
                        break
                    if self.concerns(kind, data, pos + 5, min(end, size)):
                        self.candidate = True
                        break
                owed.unsynced += 1
                if kind == CLOSE:
                    owed.closes += 1
            pos = end
        if pos >= size:
            self.skip = pos - size
            return size
        self.skip = 0
        return pos


class BackendWalk(Walk):
    """The server's messages.  `status` is the last ReadyForQuery's byte (0 before the first)."""

    __slots__ = ("blind", "on_key_data", "on_parameter", "owed", "skip", "status")

    def __init__(self, owed: Owed, on_parameter: Callable[[bytes], None], on_key_data: Callable[[bytes], None]) -> None:
        super().__init__()
        self.owed = owed
        self.on_parameter = on_parameter
        self.on_key_data = on_key_data
        self.skip = 0
        self.status = 0
        self.blind = False

    def walk(self, data: bytes) -> int:
        """How many of `data`'s bytes go to the client now; the rest is an unfinished header or an unfinished message we read."""
        size = len(data)
        pos = self.skip
        if pos > size or self.blind:
            self.skip = max(0, pos - size)
            return size
        while size - pos >= 5:
            kind = data[pos]
            length = data[pos + 1] << 24 | data[pos + 2] << 16 | data[pos + 3] << 8 | data[pos + 4]
            end = pos + 1 + length
            if kind in (READY, PARAMETER_STATUS, KEY_DATA):
                if end > size and length <= _LARGEST_STATUS:
                    break
                if kind == READY and length == 5:
                    self.status = data[pos + 5]
                    self.owed.answered()
                elif kind != READY:
                    self.note(kind, data[pos + 5 : end])
            elif kind in (COPY_IN, COPY_BOTH):
                self.owed.copying()
            elif kind == CLOSE_COMPLETE:
                self.owed.closes_done += 1
            elif kind == ERROR:
                self.owed.failed = True
                self.owed.in_copy = False
            elif length < 4:
                self.blind = True
                return size
            pos = end
        if pos >= size:
            self.skip = pos - size
            return size
        self.skip = 0
        return pos

    def note(self, kind: int, body: bytes) -> None:
        """Learn from a message that was read whole."""
        if kind == PARAMETER_STATUS:
            self.on_parameter(body)
        else:
            self.on_key_data(body)


class Sink:
    """What bytes are written to.  Between compiled sinks a write is a call in C."""

    __slots__ = ()

    def write(self, data: bytes) -> None:
        """Take `data` over."""
        raise NotImplementedError


class Into(Sink):
    """Bytes go into a function."""

    __slots__ = ("take",)

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self.take = take

    def write(self, data: bytes) -> None:
        """Call it."""
        self.take(data)


class Flow(Sink):
    """One direction of a relay: what is written here is walked, and goes on to `sink`, which is set before the first byte comes.

    `rest` is what the walk held back.  `stopped` is told when the walk stands before a candidate; it takes `rest` over.
    """

    __slots__ = ("rest", "sink", "stopped", "walk")

    def __init__(self, walk: Walk, stopped: Callable[[], None]) -> None:
        self.walk = walk
        self.stopped = stopped
        self.rest = b""
        self.sink = Sink()

    def write(self, data: bytes) -> None:
        """Pass on what may go."""
        if self.rest:
            data = self.rest + data
            self.rest = b""
        going = self.walk.walk(data)
        if going == len(data):
            self.sink.write(data)
            return
        if going:
            self.sink.write(data[:going])
        self.rest = data[going:]
        if self.walk.candidate:
            self.walk.candidate = False
            self.stopped()

    def take_rest(self) -> bytes:
        """What was held back; it is the caller's from now on."""
        rest, self.rest = self.rest, b""
        return rest


def split_frames(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """The whole messages at the start of `buffer`, as (type, message with its header); they are removed from it when it ends."""
    pos, size = 0, len(buffer)
    try:
        while size - pos >= 5:
            kind, length = HEADER.unpack_from(buffer, pos)
            end = pos + 1 + length
            if end > size:
                break
            frame = bytes(memoryview(buffer)[pos:end])
            pos = end
            yield kind, frame
    finally:
        del buffer[:pos]
