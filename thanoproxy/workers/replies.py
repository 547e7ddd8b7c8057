"""From replies that arrive by callback to what a session awaits: one answer, or a stream that ends with one.

`Send` hands a request to a worker and has each of its replies given to a callback on the event loop.  Whoever awaits and is
cancelled sends a `Cancel` after the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from thanoproxy.errors import ThanoError
from thanoproxy.workers import jobs

__all__ = ["Answer", "Report", "Send", "one_reply", "raise_failed", "until_built"]

Send = Callable[[jobs.Request, Callable[[jobs.Reply], None]], None]
Report = jobs.Progress | jobs.Remark | jobs.Built
Answer = TypeVar("Answer", jobs.Loaded, jobs.Predicted, jobs.Identified, jobs.Exported, jobs.Built)
Asked = jobs.Load | jobs.Predict | jobs.Identify | jobs.Export | jobs.Upload


async def one_reply(send: Send, request: Asked, kind: type[Answer]) -> Answer:
    """The single answer to `request`.  Raises what the worker says went wrong."""
    future: asyncio.Future[jobs.Reply] = asyncio.get_running_loop().create_future()

    def receive(reply: jobs.Reply) -> None:
        if not future.done():
            future.set_result(reply)

    send(request, receive)
    try:
        answer = await future
    except asyncio.CancelledError:
        send(jobs.Cancel(request.job), _ignore)
        raise
    raise_failed(answer)
    assert isinstance(answer, kind), f"a worker answered {type(request).__name__} with {type(answer).__name__}"
    return answer


async def until_built(send: Send, request: jobs.Build) -> AsyncGenerator[Report, None]:
    """Every report of a BUILD, then its `Built`.  Raises what the worker says went wrong; closing it early cancels the job."""
    queue: asyncio.Queue[jobs.Reply] = asyncio.Queue()
    send(request, queue.put_nowait)
    over = False
    try:
        while not over:
            reply = await queue.get()
            over = not isinstance(reply, jobs.Progress | jobs.Remark)
            raise_failed(reply)
            assert isinstance(reply, (jobs.Progress, jobs.Remark, jobs.Built)), f"a worker answered Build with {type(reply).__name__}"
            yield reply
    finally:
        if not over:
            send(jobs.Cancel(request.job), _ignore)


def raise_failed(reply: jobs.Reply) -> None:
    """Raise a `Failed` as the exception it was in the worker."""
    if isinstance(reply, jobs.Failed):
        failure = reply.failure
        raise ThanoError.from_fields(
            {name: getattr(failure, name) for name in ("sqlstate", "message", "detail", "hint", "position", "row")}
        )


def _ignore(reply: jobs.Reply) -> None:
    """A canceled job's last words."""
