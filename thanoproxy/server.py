"""The server: start, serve, drain.

start    workers, job log, listening socket
serve    each new socket: greet it, then cancel something or run a session
drain    accept no more, let transactions end, say goodbye (57P01) to the rest
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from thanoproxy.catalog.artifacts import open_store
from thanoproxy.catalog.saved import SavedViews
from thanoproxy.catalog.seal import open_seal
from thanoproxy.catalog.service import Service
from thanoproxy.catalog.sweeper import Sweeper
from thanoproxy.config import Images, Settings, Store
from thanoproxy.errors import AdminShutdown, ConfigurationError, UpstreamUnavailable
from thanoproxy.session.door import Refused, greet, refusal
from thanoproxy.session.leg import Farewells, Leg
from thanoproxy.session.listener import Listener, listen
from thanoproxy.session.login import relay_login, scram_login
from thanoproxy.session.names import Names
from thanoproxy.session.relay import Relay
from thanoproxy.session.services import Services
from thanoproxy.session.upstream import Upstream
from thanoproxy.session.verifiers import Verifiers, open_verifiers
from thanoproxy.statements.shapes import Seal
from thanoproxy.tls.clients import SCRAM_BETWEEN, certified_name, server_tls
from thanoproxy.tls.upstream import upstream_tls
from thanoproxy.wire.startup import Cancel, Startup
from thanoproxy.workers.inline import InlinePool
from thanoproxy.workers.local import LocalPool
from thanoproxy.workers.pool import Pool
from thanoproxy.workers.reading import FileReader
from thanoproxy.workers.scratch import Scratch, remove_abandoned
from thanoproxy.workers.settings import MIB, RemoteSettings, StoreSettings, WorkerSettings

__all__ = ["Server", "Shared", "worker_settings"]

_log = logging.getLogger(__name__)
_DRAIN_SECONDS = 10.0
_LOOK_SECONDS = 0.1
_DOOR_SECONDS = 5.0
"""How long a client that has not said who it is may take up room that others wait for."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What a front has in common with those beside it (`thanoproxy.fronts`): a pool of the same workers, and the listening socket.

    `folder` is its own, for its spools; `cancel_elsewhere` hands the others a CancelRequest whose key is not known here.
    """

    pool: Pool
    listener: Listener
    folder: str
    cancel_elsewhere: Callable[[Cancel], Awaitable[None]]


class Server:
    """One front: a listening socket, its sessions, and the workers they share."""

    def __init__(self, settings: Settings, shared: Shared | None = None) -> None:
        self.settings = settings
        address = settings.upstream.address
        path = None if address.socket_path is None else str(address.socket_path)
        tls = upstream_tls(address.options, vouch=settings.upstream.vouch)
        self.upstream = Upstream(address.host, address.port, path, tls, settings.upstream.mirror_tls)
        self._tls = server_tls(settings.tls)
        self._verifiers: Verifiers | None = None
        self.address = (settings.server.host, settings.server.port)
        self.pool = make_pool(settings) if shared is None else shared.pool
        self._database = address.database or address.user or ""
        self._log = Service(settings.upstream.required_url)
        self._views = SavedViews(settings.upstream.required_url)
        self._names: WeakValueDictionary[str, Names] = WeakValueDictionary()
        self._kept_names: dict[str, Names] = {}  # of databases that exist: anybody can ask for others
        self._folder = None if shared is None else shared.folder
        self._spool: Scratch | None = None
        self._sweeper = Sweeper(settings.upstream.required_url, open_store(settings.artifacts.url), settings.artifacts.sweep_after * 3600)
        self._services: Services | None = None
        self._listener = None if shared is None else shared.listener
        self._cancel_elsewhere = _nowhere if shared is None else shared.cancel_elsewhere
        self._accepting: asyncio.Task[None] | None = None
        self._sessions: set[Relay] = set()
        self._keys: dict[tuple[int, bytes], Relay] = {}
        self._arriving: dict[asyncio.Task[None], float] = {}  # since when, the oldest first
        self._left = asyncio.Event()
        self._farewells = Farewells()

    async def start(self) -> None:
        """Begin to serve; `address` then has the port in use.  Raises `ConfigurationError`, or `OSError` if the port is taken."""
        seal = open_seal(self.settings.artifacts.folder)
        secret = seal.derive("mock authentication")
        self._verifiers = open_verifiers(self.settings.auth, self.settings.upstream.required_url, secret)
        self._warn()
        self._listener = self._listener or Listener(listen(self.address))
        self.address = self._listener.address
        await asyncio.to_thread(remove_abandoned)
        self._spool = Scratch(self._folder)
        await self.pool.start()
        self._services = Services(
            self.pool,
            Seal(seal.sign, seal.verify),
            self._log,
            Path(self._spool.path),
            self._names_of,
            self._views.backend_is_gone,
            FileReader(tuple(map(str, self.settings.images.roots)), tuple(map(str, self.settings.files.roots))),
            self.settings.upstream.address.user or os.environ.get("PGUSER") or getpass.getuser(),  # as asyncpg
        )
        if self._database:
            await self._log.start(self._database)
        self._sweeper.start()
        self._accepting = asyncio.create_task(self._accept(self._listener))

    def reload(self) -> None:
        """Read certificates and verifiers again, for connections that come from now on.  What is wrong with them leaves the old in use."""
        try:
            tls = server_tls(self.settings.tls)
            if self._verifiers is not None:
                self._verifiers.reload()
        except ConfigurationError as error:
            _log.error("%s; nothing was reloaded", error.message)
        else:
            self._tls = tls
            _log.info("certificates and verifiers reloaded")

    def _warn(self) -> None:
        if self._verifiers is None and self._tls is not None and self.upstream.may_encrypt:
            _log.warning(SCRAM_BETWEEN)

    async def cancel(self, request: Cancel) -> bool:
        """Whether the key is that of a session here; what that does is stopped, at the server first, so that no cancel of its arrives
        after ours."""
        relay = self._keys.get((request.pid, request.key))
        if relay is None:
            return False
        await self.upstream.cancel(request, relay.route)
        relay.stop("user request")
        return True

    async def close(self) -> None:
        """Drain: idle sessions end at once, the others when their transaction does, or after a deadline."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])  # it looks at the listener to the end
        if self._listener is not None:
            self._listener.close()
        await self._drain()
        await self.pool.close()
        await self._sweeper.close()
        await self._views.close()
        await self._log.close()
        if self._verifiers is not None:
            await self._verifiers.close()
        await self._farewells.end()
        if self._spool is not None:
            self._spool.remove()

    async def _accept(self, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while len(self._arriving) >= self.settings.server.max_arriving:
                await self._make_room()
            try:
                sock = await listener.accept()
            except OSError as problem:
                # Out of descriptors, or a peer that left early: neither may end the server.
                _log.warning("accept: %s", problem)
                await asyncio.sleep(0.1)
                continue
            task = loop.create_task(self._welcome(sock))
            self._arriving[task] = loop.time()
            self._count()
            task.add_done_callback(self._arrived)

    async def _make_room(self) -> None:
        """Wait until somebody has logged in or left.  A crowd is soon through; one who only stands in the door is shown out."""
        oldest, since = next(iter(self._arriving.items()))
        wait = since + _DOOR_SECONDS - asyncio.get_running_loop().time()
        self._left.clear()
        if wait <= 0:
            oldest.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._left.wait(), max(wait, 0.1))

    def _arrived(self, task: asyncio.Task[None]) -> None:
        del self._arriving[task]
        self._left.set()
        self._count()

    def _count(self) -> None:
        assert self._listener is not None, "started"
        self._listener.clients = len(self._arriving) + len(self._sessions)

    async def _welcome(self, sock: socket.socket) -> None:
        """From a new socket to a running session, or to its end."""
        leg, tls = Leg(sock), self._tls
        opened = False
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            async with asyncio.timeout(self.settings.server.login_timeout):
                request = await greet(leg, tls)
                if isinstance(request, Cancel):
                    # Unknown keys are answered by silence, and cost the server nothing.
                    if not await self.cancel(request):
                        await self._cancel_elsewhere(request)
                else:
                    await self._open(leg, request, None if tls is None or not leg.tls else tls.end_point)
                    opened = True
        except Refused as refused:
            with contextlib.suppress(OSError):
                await leg.write(refused.reply)
        except ssl.SSLError as problem:
            _log.info("a TLS handshake failed: %s", problem.strerror or problem)
        except (OSError, TimeoutError):
            pass  # a health check that looked in, or a client that fell silent
        finally:
            if not opened:
                leg.close()
                self._farewells.add(leg.reader)

    async def _open(self, leg: Leg, startup: Startup, certificate: bytes | None) -> None:
        """Connect upstream, log in as far as that needs us, and let bytes flow."""
        assert self._services is not None, "started"
        relay = Relay(startup, self._services, self._cancel_running, tls=leg.tls)
        relay.on_key = self._remember
        try:
            vouched = startup.is_of(certified_name(leg.ssl_object))
            upstream, relay.route = await self.upstream.open(startup.packet, client_tls=leg.tls, vouched=vouched)
        except OSError as problem:
            raise refusal(UpstreamUnavailable(f"cannot reach the database server: {problem.strerror or problem}")) from None
        try:
            if self._verifiers is None:
                await relay_login(leg, upstream)
            else:
                await scram_login(leg, upstream, startup, self._verifiers, certificate)
        except BaseException:
            upstream.close()
            raise
        self._sessions.add(relay)
        relay.closed.add_done_callback(lambda _: self._forget(relay))
        upstream.attach(relay.upstream)
        leg.attach(relay.client)
        relay.connected()
        upstream.release(relay.upstream)
        leg.release(relay.client)

    def _remember(self, relay: Relay) -> None:
        """The server has let the client in."""
        self._keys[relay.identity.backend_pid, relay.identity.key] = relay
        if not relay.attends:
            return
        database = relay.identity.database
        names = self._kept_names[database] = self._names_of(database)
        self._views.enter(database, names.heard)

    def _names_of(self, database: str) -> Names:
        names = self._names.get(database)
        if names is None:
            names = self._names[database] = Names()
        return names

    def _forget(self, relay: Relay) -> None:
        self._farewells.add(relay.client, relay.upstream)
        self._sessions.discard(relay)
        if self._keys.pop((relay.identity.backend_pid, relay.identity.key), None) is not None and relay.attends:
            self._views.leave(relay.identity.database)
        self._count()

    async def _cancel_running(self, relay: Relay) -> None:
        await self.upstream.cancel(Cancel(relay.identity.backend_pid, relay.identity.key), relay.route)

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _DRAIN_SECONDS
        while self._sessions:
            late = loop.time() >= deadline
            for relay in list(self._sessions):
                if relay.idle or late:
                    relay.fatal(AdminShutdown("terminating connection due to administrator command"))
            # A session does not say when its transaction is over, so it is looked at again.
            await asyncio.wait([relay.closed for relay in self._sessions], timeout=_LOOK_SECONDS)
        arriving = list(self._arriving)
        for task in arriving:
            task.cancel()
        await asyncio.gather(*arriving, return_exceptions=True)


async def _nowhere(_: Cancel) -> None:
    """There is no other front."""


def make_pool(settings: Settings) -> Pool:
    """The workers that `settings` asks for, not yet started."""
    told = worker_settings(settings)
    return InlinePool(told) if settings.workers.pool == "inline" else LocalPool(told)


def remote_settings(images: Images) -> RemoteSettings:
    return RemoteSettings(
        url_hosts=images.url_hosts,
        private_url_hosts=images.private_url_hosts,
        stores=tuple(map(_store_settings, images.stores)),
        ca=None if images.ca is None else str(images.ca),
        timeout=images.remote_timeout,
        reads=images.remote_reads,
    )


def _store_settings(store: Store) -> StoreSettings:
    scheme, bucket, prefix = store.parts
    more = store.model_dump(exclude={"url"})
    return StoreSettings(scheme=scheme, bucket=bucket, prefix=prefix, **more)


def worker_settings(settings: Settings) -> WorkerSettings:
    return WorkerSettings(
        artifacts_url=settings.artifacts.url,
        image_roots=tuple(map(str, settings.images.roots)),
        remote_images=remote_settings(settings.images),
        weights_roots=tuple(map(str, settings.weights.roots)),
        file_roots=tuple(map(str, settings.files.roots)),
        allow_download=settings.weights.download,
        devices=tuple(settings.workers.devices.split(",")),
        build_devices=tuple(settings.workers.build_devices.split(",")),
        threads=settings.workers.threads or None,
        compile=settings.workers.compile,
        decoders=settings.workers.decoders,
        gpu_decode=settings.workers.gpu_decode,
        hang_after=settings.workers.hang_after,
        queue_rows=settings.workers.queue_rows,
        prediction_cache=settings.workers.prediction_cache * MIB,
    )
