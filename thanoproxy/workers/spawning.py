"""Starting a Python process of our own, and ending it.

Its standard input is its lifeline: an empty line is the parent's goodbye, and the bare end of the file says that the parent was
killed and could clean up nothing.  Its standard output carries one answer, that it is ready or why it is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

import msgspec

import thanoproxy

__all__ = ["end", "environment", "how_it_ended", "say", "spawn", "take_stdout"]

# The parent's end.


async def spawn(module: str, *, pass_fds: tuple[int, ...] = ()) -> asyncio.subprocess.Process:
    """Run `module` with pipes as standard input and output, out of reach of a terminal's signals."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # the current folder is not where modules come from
        "-m",
        module,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
        start_new_session=True,
        pass_fds=pass_fds,
    )


async def end(process: asyncio.subprocess.Process, patience: float) -> int:
    """Close the lifeline, wait, and kill what does not go by itself; the exit status."""
    if process.stdin is not None and not process.stdin.is_closing():
        process.stdin.write(b"\n")
        process.stdin.close()
    try:
        async with asyncio.timeout(patience):
            return await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    return await process.wait()


def how_it_ended(code: int) -> str:
    return f"It was ended by signal {-code}." if code < 0 else f"Its exit status was {code}."


def environment() -> dict[str, str]:
    """This process's own, with the package in reach however this process came by it.

    Compute threads that wait for each other sleep instead of spinning: it costs nothing on a quiet machine, and a spinning thread
    takes its core from the loader threads, the proxy and PostgreSQL beside it (a BUILD took twice as long next to a busy process).
    """
    package = os.path.dirname(os.path.dirname(os.path.abspath(thanoproxy.__file__)))
    paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


# The child's end.


def take_stdout() -> int:
    """The pipe to the parent, out of reach of anything that prints."""
    pipe = os.dup(1)
    os.dup2(2, 1)
    return pipe


def say(pipe: int, answer: msgspec.Struct) -> None:
    """Answer the parent, once."""
    os.write(pipe, msgspec.json.encode(answer) + b"\n")
    os.close(pipe)
