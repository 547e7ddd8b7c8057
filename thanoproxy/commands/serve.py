"""`thanoproxy serve`: the proxy, and with --embedded the PostgreSQL behind it, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from collections.abc import Coroutine
from typing import TYPE_CHECKING

import uvloop

from thanoproxy.commands.flags import config_flag, fronts_flag, listen_flag, root_flags, settings_of, upstream_flags
from thanoproxy.commands.upstream import client_url, open_upstream, prepare, psql_line, require_folders
from thanoproxy.config import Settings
from thanoproxy.embedded import EmbeddedPostgres
from thanoproxy.errors import ConfigurationError, UpstreamUnavailable

if TYPE_CHECKING:
    from thanoproxy.fronts.parent import Fronts
    from thanoproxy.server import Server

HELP = "run the proxy"

LOOK_SECONDS = 1.0


def arguments(parser: argparse.ArgumentParser) -> None:
    config_flag(parser)
    listen_flag(parser)
    fronts_flag(parser)
    upstream_flags(parser)
    root_flags(parser, "image", "weights")


def run(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    require_folders(settings)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    uvloop.run(until_stopped(serve(settings)))
    return 0


async def until_stopped(work: Coroutine[None, None, None]) -> None:
    """`work`, cancelled by the first SIGTERM or SIGINT, at whatever point of start or service it arrives; a second one hurries."""
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def serve(settings: Settings) -> None:
    """Until cancelled.  Raises `UpstreamUnavailable` where the embedded server goes away."""
    async with open_upstream(settings) as (reachable, embedded):
        await prepare(reachable)
        server = server_of(reachable)
        try:
            await start(server)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, server.reload)
            print(f"listening on {server.address[0]} port {server.address[1]}; connect with", flush=True)
            print("  " + psql_line(client_url(reachable, embedded, server.address)), flush=True)
            await watch(embedded)
        finally:
            await server.close()


def server_of(settings: Settings) -> Server | Fronts:
    """What serves: this process itself, or several that it starts."""
    if settings.server.fronts == 1:
        from thanoproxy.server import Server  # here, so that other commands start without it

        return Server(settings)
    from thanoproxy.fronts.parent import Fronts

    return Fronts(settings)


async def start(server: Server | Fronts) -> None:
    try:
        await server.start()
    except OSError as error:
        host, port = server.address
        raise ConfigurationError(f"server.port: cannot listen on {host} port {port}: {error.strerror}") from error


async def watch(embedded: EmbeddedPostgres | None) -> None:
    while embedded is None or embedded.running:  # noqa: ASYNC110 - a process that we may not wait for, if we adopted it
        await asyncio.sleep(LOOK_SECONDS)
    raise UpstreamUnavailable(f"the embedded PostgreSQL has stopped, see {embedded.log_file}")
