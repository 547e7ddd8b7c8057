"""A rank of a BUILD: `python -m thanoproxy.workers.rank_process`, started by `thanoproxy.workers.ranks` in the worker that leads.

It is given a device, told what to do on a socket, and adds up gradients with the others.  When its standard input or the socket closes, its
worker is gone, and so is it.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
import sys
from collections.abc import Iterator

import msgspec

from thanoproxy.errors import InternalError, ThanoError
from thanoproxy.workers import jobs
from thanoproxy.workers.decoder import receive, send
from thanoproxy.workers.lifeline import end_with_stdin, ignore_signals
from thanoproxy.workers.memory import keep_freed_memory
from thanoproxy.workers.settings import WorkerSettings

__all__ = ["Begin", "main"]


class Begin(msgspec.Struct, frozen=True):
    """What the leader says first.  `training` is a `thanoproxy.engine.orders.Training`, which to know takes torch."""

    settings: WorkerSettings
    device: str
    threads: int
    training: msgspec.Raw


def main() -> None:
    """Follow until the leader is gone.  Arguments: the descriptors of the socket and of the file that the group finds together through."""
    ignore_signals()
    faulthandler.enable()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s rank[%(process)d] %(levelname)s %(message)s")
    keep_freed_memory()
    end_with_stdin()
    leader, store = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    status = 0
    try:
        _follow(leader, store, msgspec.msgpack.decode(receive(leader), type=Begin))
    except ConnectionError:
        pass
    except Exception as error:
        status = 1
        _say_why(leader, error)
    # No clean-up: nothing here needs it, and threads that still read could hold it up.
    os._exit(status)


def _follow(leader: socket.socket, store: int, begin: Begin) -> None:
    import torch

    from thanoproxy.engine.device import choose
    from thanoproxy.engine.follower import follow
    from thanoproxy.engine.orders import Order, Training
    from thanoproxy.images import open_sources
    from thanoproxy.workers.decoding import loaders_for

    settings = begin.settings
    device = choose(begin.device, begin.threads)
    decode = msgspec.msgpack.Decoder(Order).decode

    def orders() -> Iterator[Order]:
        while True:
            yield decode(receive(leader))

    device.enter()
    sources = open_sources(settings.image_roots, settings.remote_images)
    threads = loaders_for(settings, device, lambda: torch.set_num_threads(1))
    device.use_threads()
    training = msgspec.msgpack.decode(begin.training, type=Training)
    follow(training, store, device, sources, threads, settings.pixel_cache, lambda answer: send(leader, answer), orders())


def _say_why(leader: socket.socket, error: Exception) -> None:
    from thanoproxy.engine.orders import Failed

    if not isinstance(error, ThanoError):
        logging.error("a rank failed", exc_info=error)
        error = InternalError(f"{type(error).__name__}: {error}")
    try:
        send(leader, Failed(jobs.Failure(**error.to_fields())))  # type: ignore[arg-type]
    except OSError:
        logging.exception("the leader does not hear why")


if __name__ == "__main__":
    main()
