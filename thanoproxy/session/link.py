"""One side of a session: an asyncio protocol thin enough to read aloud."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from thanoproxy.session.transport import SocketTransport
from thanoproxy.wire.framing import Into, Sink

__all__ = ["Link"]

_LOOK_SECONDS = 0.5


class Link(asyncio.Protocol):
    """Bytes in go to `sink`; whoever writes faster than the other side reads is told by `on_full`.

    Reading stops while anybody holds the link (`hold`/`release`, by reason), so memory is bounded in both directions.  A server that
    ends meanwhile says so behind all that is not read yet; `is_over` is asked about it now and then, and if so the rest is read.
    """

    __slots__ = (
        "_closing",
        "_drained",
        "_ended",
        "_held",
        "_look",
        "full",
        "is_over",
        "lost",
        "on_eof",
        "on_full",
        "on_gone",
        "on_lost",
        "sink",
        "transport",
    )

    def __init__(
        self,
        sink: Sink,
        on_eof: Callable[[], bool],
        on_lost: Callable[[Exception | None], None],
        on_full: Callable[[bool], None],
    ) -> None:
        self.sink = sink
        self.on_eof = on_eof
        self.on_lost = on_lost
        self.on_full = on_full
        self.full = False
        self.lost = False
        self.on_gone: Callable[[Link], None] = _nobody
        self._closing = False
        self._held: set[str] = set()
        self._look: asyncio.TimerHandle | None = None
        self._ended = False
        self.is_over: Callable[[], Awaitable[bool]] | None = None
        self._drained: asyncio.Future[None] | None = None
        self.transport = cast(asyncio.Transport, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.direct(self.sink)

    def data_received(self, data: bytes) -> None:
        self.sink.write(data)

    @property
    def outlet(self) -> Sink:
        """Where bytes out go, by the shortest way."""
        transport: object = self.transport
        return transport if isinstance(transport, Sink) else Into(self.transport.write)

    def direct(self, sink: Sink) -> None:
        """From now on, bytes in go to `sink`."""
        self.sink = sink
        transport: object = self.transport
        if isinstance(transport, SocketTransport):
            transport.sink = sink

    def eof_received(self) -> bool:
        """True keeps our half open: after the client's FIN the server still answers what it was asked (half-close)."""
        return self.on_eof()

    def connection_lost(self, problem: Exception | None) -> None:
        self.lost = True
        self._wake()
        self.on_lost(problem)
        self.on_gone(self)

    def pause_writing(self) -> None:
        self.full = True
        self.on_full(True)

    def resume_writing(self) -> None:
        self.full = False
        if self._closing:
            self.transport.close()
        self._wake()
        self.on_full(False)

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def close(self) -> None:
        """Close behind all that was written.  The loop's TLS would throw away what is not read within its shutdown's time."""
        if isinstance(self.transport, SocketTransport) or not self.transport.get_write_buffer_size():
            self.transport.close()
        elif not self._closing:
            self._closing = True
            self.transport.set_write_buffer_limits(high=0)

    async def drained(self) -> None:
        """Return once the other side has read enough of what was written."""
        while self.full and not self.transport.is_closing():
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def hold(self, reason: str) -> None:
        """Stop reading until every reason is released."""
        if not self._held and not self._ended and not self.transport.is_closing():
            self.transport.pause_reading()
            self._look_later()
        self._held.add(reason)

    def release(self, reason: str) -> None:
        if reason in self._held:
            self._held.discard(reason)
            if not self._held and not self._ended:
                self._resume()

    def _resume(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _look_later(self) -> None:
        # A release does not end it: whoever holds and lets go by turns may do so for long.
        if self.is_over is not None and self._look is None:
            loop = asyncio.get_running_loop()
            self._look = loop.call_later(_LOOK_SECONDS, lambda: loop.create_task(self._look_now()))

    async def _look_now(self) -> None:
        assert self.is_over is not None, "asked for"
        over, self._look = await self.is_over(), None
        if over and not self._ended:
            self._ended = True
            self._resume()
        elif self._held and not self._ended and not self.transport.is_closing():
            self._look_later()

    def _wake(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)


def _nobody(_: Link) -> None:
    pass
