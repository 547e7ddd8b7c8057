"""The process that reads one file with rows: `python -m thanoproxy.workers.reading_process`, started by `thanoproxy.workers.reading`.

The first line of its standard input is a `Wanted` as JSON; when the pipe closes, nobody wants it any more.  Frames of `Reply`s go to its
standard output, as fast as they are read there.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from collections.abc import Callable

import msgspec

from thanoproxy.errors import InternalError, ThanoError
from thanoproxy.files import Wanted, open_table
from thanoproxy.workers import jobs
from thanoproxy.workers.lifeline import end_with_stdin
from thanoproxy.workers.reading import Opened, Over, Part, Reply
from thanoproxy.workers.spawning import take_stdout

__all__ = ["main"]


def main() -> None:
    """Read, and end."""
    faulthandler.enable()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s reader[%(process)d] %(levelname)s %(message)s")
    with os.fdopen(take_stdout(), "wb", buffering=0) as pipe:
        line = sys.stdin.buffer.readline()
        if not line:
            return  # nobody wants anything any more
        wanted = msgspec.json.decode(line, type=Wanted)
        end_with_stdin()

        def say(reply: Reply) -> None:
            payload = msgspec.msgpack.encode(reply)
            frame = memoryview(len(payload).to_bytes(4, "big") + payload)
            while frame:
                frame = frame[pipe.write(frame) :]

        try:
            _read(wanted, say)
        except BrokenPipeError:
            return
        except ThanoError as problem:
            say(_failed(problem))
        except Exception as problem:
            logging.exception("%s cannot be read", wanted.source)
            say(_failed(InternalError("the file cannot be read", detail=f"{type(problem).__name__}: {problem}")))


def _read(wanted: Wanted, say: Callable[[Reply], None]) -> None:
    table = open_table(wanted)
    say(Opened(list(table.fields), table.format))
    for part in table.parts():
        say(Part(part))
    say(Over(table.remark()))


def _failed(problem: ThanoError) -> jobs.Failed:
    return jobs.Failed("", jobs.Failure(**problem.to_fields()))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
