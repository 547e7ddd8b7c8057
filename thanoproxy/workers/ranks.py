"""The other ranks of a BUILD as its worker sees them: processes of its own, each with a device, for as long as all of a network is trained.

Each is told on a socket what to do, and is ended by a signal: it keeps nothing that it would have to put away.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import subprocess
import sys
from collections.abc import Sequence

import msgspec

from thanoproxy.engine.device import Device, choose
from thanoproxy.engine.group import Broken
from thanoproxy.engine.orders import Answer, Failed, Order, Training
from thanoproxy.engine.ranks import Rank, StartRanks
from thanoproxy.errors import ConfigurationError
from thanoproxy.workers.decoder import encode, receive, send
from thanoproxy.workers.rank_process import Begin
from thanoproxy.workers.settings import WorkerSettings
from thanoproxy.workers.spawning import environment, how_it_ended

__all__ = ["RankProcess", "others", "starter"]

PATIENCE = 30.0
"""Seconds that a message may take: nobody is told anything who does not wait for it."""

log = logging.getLogger(__name__)

_decode_answer = msgspec.msgpack.Decoder(Answer).decode


def starter(settings: WorkerSettings, device: Device) -> StartRanks | None:
    """Starts a process for each other device that a BUILD may use; None if there is none.

    Raises `ConfigurationError` for one that is not there, or that cannot train along.
    """
    names = others(settings.build_devices, device)
    if not names:
        return None
    for name in names:
        _check(name, device)

    def start(training: Training, store: int) -> Sequence[Rank]:
        threads, told = max(1, device.threads // (1 + len(names))), msgspec.Raw(encode(training))
        started = list[RankProcess]()
        try:
            for name in names:
                started.append(RankProcess(Begin(settings, name, threads, told), store))
        except OSError:
            for rank in started:
                rank.end()
            raise
        return started

    return start


def _check(name: str, device: Device) -> None:
    try:
        found = choose(name)
    except ConfigurationError as error:
        raise ConfigurationError(f"workers.build_devices: {error.message}") from error
    if found.is_cuda != device.is_cuda:
        raise ConfigurationError(f"workers.build_devices: a worker on {device.name} cannot train together with {name}")


def others(build_devices: Sequence[str], device: Device) -> list[str]:
    """The names in `build_devices` without `device` itself, where 'own' is that alone, and 'all' every device of its kind."""
    names = list(build_devices)
    if names == ["own"]:
        return []
    if names == ["all"]:
        names = [f"cuda:{index}" for index in range(device.siblings)] if device.is_cuda else []
    if device.name in names:
        names.remove(device.name)
    return names


class RankProcess:
    """See `thanoproxy.engine.ranks.Rank`; `store` is a descriptor that it inherits.  Raises OSError if it cannot be started."""

    def __init__(self, begin: Begin, store: int) -> None:
        self.device = begin.device
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "thanoproxy.workers.rank_process", str(theirs.fileno()), str(store)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), store),
                env=environment(),
                start_new_session=True,
            )
        self._socket.settimeout(PATIENCE)
        with contextlib.suppress(OSError):  # gone already: it will be noticed
            send(self._socket, begin)

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        if self._process.poll() is not None:
            raise Broken(self._last_words())

    def tell(self, order: Order) -> None:
        try:
            send(self._socket, order)
        except OSError as error:
            raise Broken(self._last_words()) from error

    def heard(self) -> Answer | None:
        try:
            if not select.select([self._socket], [], [], 0)[0]:
                return None
            answer = _decode_answer(receive(self._socket))
        except OSError as error:
            raise Broken(self._last_words()) from error
        if isinstance(answer, Failed):
            raise Broken(answer.failure.message)
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None, "a pipe"
        self._process.stdin.close()
        self._socket.close()

    def _last_words(self) -> str:
        """Why it is gone: what it said, or how it ended."""
        with contextlib.suppress(OSError):
            while select.select([self._socket], [], [], 0)[0]:
                if isinstance(answer := _decode_answer(receive(self._socket)), Failed):
                    return answer.failure.message
        self._process.kill()
        how = how_it_ended(self._process.wait())
        log.error("process %d, which trains along on %s, is gone: %s", self.pid, self.device, how)
        return how
