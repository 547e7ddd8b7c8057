"""A session: one client, one upstream, and bytes between them.

`Relay` is what a session is nearly all of the time.  Each chunk is walked once, to know where messages begin, and written to the other
side; nothing is copied and no object is made for a message.  A slow reader stops the other side's reader.  When the walk stops at a
message that may be ours, both directions go to an `Attendant` until nothing of ours is in flight.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from thanoproxy.errors import InternalError, ThanoError
from thanoproxy.session.attend import Attendant, ClientGone
from thanoproxy.session.exchange import Exchange
from thanoproxy.session.execute import Identity, Stop
from thanoproxy.session.link import Link
from thanoproxy.session.reading import Reader
from thanoproxy.session.services import Services
from thanoproxy.session.upstream import Route
from thanoproxy.wire import messages
from thanoproxy.wire.framing import BackendWalk, Flow, FrontendWalk, Into, Owed
from thanoproxy.wire.startup import Startup

__all__ = ["Relay"]

_log = logging.getLogger(__name__)


class Relay:
    """One session.  `closed` resolves when both sides are gone; `attends` says that it looks at texts (walsenders have another SQL)."""

    def __init__(self, startup: Startup, services: Services, cancel_upstream: Callable[[Relay], Awaitable[None]], tls: bool) -> None:
        self.identity = Identity(startup.user, startup.database)
        self.services = services
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_key: Callable[[Relay], None] = _no_key
        self.route: Route | None = None
        self.attends = not startup.replication
        self._tls = tls
        # Server
        self.owed = Owed()
        names = services.names(startup.database)
        self.reader = Reader(names)
        # Directions
        self._frontend: FrontendWalk = FrontendWalk(self.owed, names.marks)
        self._backend = BackendWalk(self.owed, self._parameter, self._key)
        self._frontend.blind = not self.attends
        self._to_upstream = Flow(self._frontend, self._attend)
        self._to_client = Flow(self._backend, _never)
        self.client = Link(self._to_upstream, self._client_eof, self._client_lost, self._client_full)
        self.upstream = Link(self._to_client, self._upstream_eof, self._upstream_lost, self._upstream_full)
        self.upstream.is_over = self._server_is_gone
        # Attention
        self.stop = Stop(lambda: cancel_upstream(self))
        self._attendant: Attendant | None = None
        self._attending = False
        self._task: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is owed and no transaction is open, so that ending the session loses nothing."""
        return not self._attending and not self.owed.ready and not self.owed.unsynced and self._backend.status == ord("I")

    def connected(self) -> None:
        """Both sides are there: let bytes flow."""
        self._to_upstream.sink = self.upstream.outlet
        self._to_client.sink = self.client.outlet

    # Attention.

    def _attend(self) -> None:
        """A message that may be ours stands at the head of what the client's flow held back."""
        owed, backend = self.owed, self._backend
        attendant = self._attendant
        if attendant is None:
            exchange = Exchange(self.client, self.upstream, backend.status, self._idle)
            exchange.cancel_upstream = self.stop.cancel_upstream
            attendant = self._attendant = Attendant(exchange, self.services, self.identity, self.stop, self.reader)
            attendant.observe = self._observe
        exchange = attendant.exchange
        exchange.codec = self.reader.codec or "utf-8"
        exchange.pipeline.status = backend.status
        exchange.skip = backend.skip
        backend.skip = 0
        self._attending = True
        closes = owed.closes - (0 if owed.ready else owed.closes_done)
        attendant.begin(bytes(owed.ready), owed.unsynced, closes, owed.failed and not owed.ready)
        attendant.inbox += self._to_upstream.take_rest()
        self.client.direct(Into(attendant.receive))
        self.upstream.direct(Into(exchange.receive))
        pending = self._to_client.take_rest()
        if pending:
            exchange.receive(pending)
        self._task = asyncio.get_running_loop().create_task(self._attention(attendant))

    async def _attention(self, attendant: Attendant) -> None:
        try:
            await attendant.run()
        except ClientGone:
            self._client_gone()
            return
        except asyncio.CancelledError:
            return
        except Exception:
            _log.exception("a session of %s failed", self.identity.user)
            self.fatal(InternalError("internal error of the proxy", hint="Its log says more."))
            return
        self._resume(attendant)

    def _resume(self, attendant: Attendant) -> None:
        """Nothing of ours is in flight: relay again."""
        self._attending = False
        self.owed.clear()
        self._backend.status = attendant.exchange.pipeline.status
        self._to_client.rest = attendant.exchange.take_rest()
        self.client.direct(self._to_upstream)
        self.upstream.direct(self._to_client)
        self._frontend.concerns = attendant.concerns if attendant.statements or attendant.portals else None
        rest = bytes(attendant.inbox)
        attendant.inbox.clear()
        self.client.release("inbox")
        eof = attendant.eof
        if rest:
            self._to_upstream.write(rest)
        if eof and not self._attending:
            self._client_eof()

    def _idle(self) -> None:
        if self._attendant is not None:
            self._attendant.wake()

    # What the server says about itself.

    def _observe(self, kind: int, frame: bytes) -> None:
        if kind == ord("S"):
            self._parameter(frame[5:])
        elif kind == ord("K"):
            self._key(frame[5:])

    def _parameter(self, body: bytes) -> None:
        name, _, rest = body.partition(b"\0")
        self.reader.learn(name, rest.removesuffix(b"\0").decode("ascii", "replace"))
        if self._attendant is not None:
            self._attendant.exchange.codec = self.reader.codec or "utf-8"

    def _key(self, body: bytes) -> None:
        self.identity.backend_pid = int.from_bytes(body[:4], "big")
        self.identity.key = body[4:]
        self.on_key(self)

    # Back-pressure: whoever cannot be written to stops the other side's reader.

    def _client_full(self, full: bool) -> None:
        (self.upstream.hold if full else self.upstream.release)("client")

    def _upstream_full(self, full: bool) -> None:
        (self.client.hold if full else self.client.release)("upstream")

    # Ends of life.

    def _client_eof(self) -> bool:
        """The client will send nothing more.  What it asked for is still answered, as by PostgreSQL; TLS has no half-close."""
        if self._attending and self._attendant is not None:
            self._attendant.ended()
        elif self.upstream.transport is not None and self.upstream.transport.can_write_eof():
            self.upstream.transport.write_eof()
        elif self._to_upstream.rest or self._frontend.skip:
            return False  # in the middle of a message, and TLS has no half-close
        elif self.upstream.transport is not None:
            self.upstream.write(messages.TERMINATE)  # the server reads it when it has answered the rest
        return not self._tls

    def _client_lost(self, _: Exception | None) -> None:
        if self._attending and self._attendant is not None:
            self._attendant.ended()
            if not self.stop.running:
                self._client_gone()
        else:
            self._client_gone()

    def _client_gone(self) -> None:
        if self.upstream.transport is not None and not self.upstream.transport.is_closing():
            if not self._attending:
                self.upstream.transport.close()
            else:
                self.upstream.write(messages.TERMINATE)
                self.upstream.transport.close()
        if self.client.transport is not None:
            self.client.close()
        self._finish()

    async def _server_is_gone(self) -> bool:
        """Whether the server process has ended, while rows of its wait unread for a statement of ours (pg_terminate_backend)."""
        return self._attending and await self.services.backend_is_gone(self.identity.database, self.identity.backend_pid)

    def _upstream_eof(self) -> bool:
        return False

    def _upstream_lost(self, _: Exception | None) -> None:
        if self._attendant is not None:
            self._attendant.exchange.close()
        if self._task is not None:
            self._task.cancel()
        if self.client.transport is not None:
            self.client.close()
        self._finish()

    def fatal(self, error: ThanoError) -> None:
        """Tell the client that this is the end, and end it."""
        if not self.client.transport.is_closing():
            self.client.write(messages.error_response(error, "FATAL"))
        self._client_gone()

    def _finish(self) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


def _never() -> None:
    raise AssertionError("the server's bytes are never stopped")


def _no_key(_: Relay) -> None:
    pass
