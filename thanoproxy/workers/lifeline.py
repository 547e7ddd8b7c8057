"""When a process that works for another one ends: when that one says so or is gone, and at nobody else's word."""

from __future__ import annotations

import os
import signal
import threading

__all__ = ["end_with_stdin", "ignore_signals"]


def ignore_signals() -> None:
    """The parent decides when to stop: a Ctrl-C in its terminal or a service manager's SIGTERM goes to every process there is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def end_with_stdin() -> None:
    """From now on this process ends, as it is, once its standard input has something or closes.  Starts a thread."""
    threading.Thread(target=_wait, name="lifeline", daemon=True).start()


def _wait() -> None:
    os.read(0, 1)
    os._exit(0)
