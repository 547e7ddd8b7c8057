"""A front process: `python -m thanoproxy.fronts.process`, started by `thanoproxy.fronts.front`.

Its standard input is its lifeline, and brings the parent's orders; see `thanoproxy.workers.spawning`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys

import msgspec
import uvloop

from thanoproxy.config import restore
from thanoproxy.errors import ThanoError
from thanoproxy.fronts.cancels import Cancels
from thanoproxy.fronts.listener import SharedListener, Tally
from thanoproxy.fronts.orders import Drain, Follow, Order, Ready, Reload, Start
from thanoproxy.server import Server, Shared, worker_settings
from thanoproxy.workers import jobs
from thanoproxy.workers.attached import AttachedPool
from thanoproxy.workers.process import NotStarted
from thanoproxy.workers.spawning import say, take_stdout

__all__ = ["main"]

LONGEST_ORDER = 1 << 24
SOFTWARE = 70  # EX_SOFTWARE

log = logging.getLogger(__name__)

_decode_order = msgspec.json.Decoder(Order).decode


def main() -> None:
    """Serve until the parent says so, or is gone."""
    # A service manager's signal goes to every process there is; what it means, the parent decides.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s front[%(process)d] %(name)s: %(message)s")
    uvloop.run(_serve(take_stdout()))


async def _serve(answer: int) -> None:
    orders = asyncio.StreamReader(LONGEST_ORDER)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    start = msgspec.json.decode(await orders.readline(), type=Start)
    try:
        front = _Front(start)
        obeying = asyncio.create_task(front.obey(orders))
        await front.open()
    except ThanoError as error:
        say(answer, NotStarted(jobs.Failure(**error.to_fields())))  # type: ignore[arg-type]
        sys.exit(1)
    say(answer, Ready())
    await front.drained.wait()
    await front.close()
    obeying.cancel()


class _Front:
    """A server with what it shares."""

    def __init__(self, start: Start) -> None:
        self.drained = asyncio.Event()
        self._folder = start.folder
        settings = restore(start.settings)
        self._pool = AttachedPool(start.places, worker_settings(settings), start.number)
        self._cancels = Cancels(start.folder, start.number, start.fronts, lambda request: self._server.cancel(request))
        listener = SharedListener(socket.socket(fileno=start.listener), Tally(start.folder), start.number)
        own = os.path.join(start.folder, str(start.number))
        self._server = Server(settings, Shared(self._pool, listener, own, self._cancels.elsewhere))

    async def open(self) -> None:
        await self._cancels.open()
        await self._server.start()

    async def close(self) -> None:
        # Sessions that are still in a transaction can be cancelled to the end.
        await self._server.close()
        self._cancels.close()

    async def obey(self, orders: asyncio.StreamReader) -> None:
        """Carry out the parent's orders; its end is ours."""
        try:
            while line := await orders.readline():
                if not line.strip():
                    os._exit(0)
                self._carry_out(_decode_order(line))
        except Exception:
            log.exception("the parent cannot be understood")
            os._exit(SOFTWARE)
        # It was killed.  No clean-up of ours is worth a second in which clients wait for one who cannot replace us.
        shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(0)

    def _carry_out(self, order: Order) -> None:
        if isinstance(order, Follow):
            self._pool.follow(order.places)
        elif isinstance(order, Reload):
            self._server.reload()
        else:
            assert isinstance(order, Drain), "there are three orders"
            self.drained.set()


if __name__ == "__main__":
    main()
