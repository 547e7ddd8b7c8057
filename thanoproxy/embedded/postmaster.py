"""postmaster.pid: what a running server writes beside its data, and what we may conclude from it.

The file's lines are documented in `src/include/utils/pidfile.h`: pid, data folder, start time, port, socket folder, listen
address, shared memory key, status.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Postmaster", "alive", "disown_stale", "parse", "read"]


@dataclass(frozen=True)
class Postmaster:
    """A server as its postmaster.pid shows it; `ready` once it accepts connections."""

    pid: int
    port: int
    socket_directory: Path | None
    ready: bool


def parse(text: str) -> Postmaster | None:
    """The server that `text` names; None for a file that is empty or still being written."""
    lines = [line.strip() for line in text.split("\n")]
    if len(lines) < 5 or not lines[0].lstrip("-").isdigit() or not lines[3].isdigit():
        return None
    status = lines[7] if len(lines) > 7 else ""
    return Postmaster(abs(int(lines[0])), int(lines[3]), Path(lines[4]) if lines[4] else None, status == "ready")


def read(data: Path) -> Postmaster | None:
    """The server that postmaster.pid in `data` names, alive or not."""
    try:
        return parse((data / "postmaster.pid").read_text())
    except FileNotFoundError:
        return None


def alive(postmaster: Postmaster, data: Path) -> bool:
    """Whether that process is there and is the server of `data`.

    A pid is soon used again, above all in containers, so on Linux the process must also work in `data`: a postmaster changes there.
    """
    try:
        os.kill(postmaster.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    here = Path(f"/proc/{postmaster.pid}/cwd")
    if not Path("/proc/self/cwd").exists():
        return True
    try:
        return here.resolve(strict=True) == data.resolve()
    except OSError:
        return False


def disown_stale(data: Path) -> None:
    """Let a server start although the dead one's pid now belongs to another process.

    PostgreSQL refuses to start while the pid in the file is alive, unless it is its own parent's; that is us, so we put our pid
    there.  The file must not be removed: its shared memory key is how the server notices that children of the dead one still run.
    """
    path = data / "postmaster.pid"
    try:
        lines = path.read_text().split("\n")
    except FileNotFoundError:
        return
    lines[0] = str(os.getpid())
    path.write_text("\n".join(lines))
