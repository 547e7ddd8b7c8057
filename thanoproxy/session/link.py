"""One side of a session: an asyncio protocol thin enough to read aloud."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from thanoproxy.session.transport import SocketTransport

__all__ = ["Link"]


class Link(asyncio.Protocol):
    """Bytes in go to `receive`; whoever writes faster than the other side reads is told by `on_full`.

    Reading stops while anybody holds the link (`hold`/`release`, by reason), so memory is bounded in both directions.
    """

    __slots__ = ("_drained", "_held", "full", "on_eof", "on_full", "on_lost", "receive", "transport")

    def __init__(
        self,
        receive: Callable[[bytes], None],
        on_eof: Callable[[], bool],
        on_lost: Callable[[Exception | None], None],
        on_full: Callable[[bool], None],
    ) -> None:
        self.receive = receive
        self.on_eof = on_eof
        self.on_lost = on_lost
        self.on_full = on_full
        self.full = False
        self._held: set[str] = set()
        self._drained: asyncio.Future[None] | None = None
        self.transport = cast(asyncio.Transport, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.direct(self.receive)

    def data_received(self, data: bytes) -> None:
        self.receive(data)

    def direct(self, receive: Callable[[bytes], None]) -> None:
        """From now on, bytes in go to `receive`."""
        self.receive = receive
        if isinstance(self.transport, SocketTransport):
            self.transport.receive = receive

    def eof_received(self) -> bool:
        """True keeps our half open: after the client's FIN the server still answers what it was asked (half-close)."""
        return self.on_eof()

    def connection_lost(self, problem: Exception | None) -> None:
        self._wake()
        self.on_lost(problem)

    def pause_writing(self) -> None:
        self.full = True
        self.on_full(True)

    def resume_writing(self) -> None:
        self.full = False
        self._wake()
        self.on_full(False)

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    async def drained(self) -> None:
        """Return once the other side has read enough of what was written."""
        while self.full and not self.transport.is_closing():
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def hold(self, reason: str) -> None:
        """Stop reading until every reason is released."""
        if not self._held and not self.transport.is_closing():
            self.transport.pause_reading()
        self._held.add(reason)

    def release(self, reason: str) -> None:
        if reason in self._held:
            self._held.discard(reason)
            if not self._held and not self.transport.is_closing():
                self.transport.resume_reading()

    def _wake(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
