"""Several processes of one machine that add up tensors: torch.distributed, with gloo on the CPU and NCCL on GPUs.

They find each other through a file in memory that has no name: only who was given its descriptor can join.  What a group does is a
generator that yields while it waits, so that a device is never kept waiting for another one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from datetime import timedelta

import torch
from torch import distributed

from thanoproxy.engine.device import Device

__all__ = ["SECONDS", "Broken", "Group", "Waiting", "backend_for"]

SECONDS = 60.0
"""What a group may take to form, or to pass on a network: those in it do nothing else meanwhile."""

POLL = 0.0002

Waiting = Generator[None, None, None]


class Broken(Exception):
    """A group is of no more use: somebody in it is gone, or late."""


def backend_for(devices: Sequence[str]) -> str:
    """'nccl' where each rank has a GPU of its own, else 'gloo'."""
    return "nccl" if len(set(devices)) == len(devices) and all(name.startswith("cuda") for name in devices) else "gloo"


class Group:
    """Rank `rank` of `size`; 0 leads.  Returns when all are there, and raises `Broken` where they are not.

    `store` is the descriptor of the file, and `number` sets this group apart from others before it.  `check` is called while it is
    waited for others, and raises `Broken` if that is in vain.  A process can be in one group at a time.
    """

    def __init__(
        self, device: Device, backend: str, store: int, number: int, rank: int, size: int, check: Callable[[], None] = lambda: None
    ) -> None:
        # All are on this machine, so nobody else needs to reach them.  NCCL's watchdog would end the process when another one is gone.
        for name, value in (("GLOO_SOCKET_IFNAME", "lo"), ("NCCL_SOCKET_IFNAME", "lo"), ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")):
            os.environ.setdefault(name, value)
        self._rank = rank
        self._check = check
        self._flat: dict[int, torch.Tensor] = {}
        self._nccl = backend == "nccl"
        file = distributed.FileStore(f"/proc/self/fd/{store}", -1)  # type: ignore[attr-defined]
        try:
            distributed.init_process_group(
                backend,
                store=distributed.PrefixStore(f"group {number}", file),  # type: ignore[attr-defined]
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=SECONDS),
                device_id=device.device if self._nccl else None,
            )
        except RuntimeError as error:
            self.close()
            raise Broken(str(error)) from error

    def spread(self, tensors: Sequence[torch.Tensor]) -> Waiting:
        """The leader's values become everybody's.  Raises `Broken`."""
        flat = self._flattened(tensors, full=self._rank == 0)
        yield from self._done(lambda: distributed.broadcast(flat, 0, async_op=True))
        if self._rank != 0:
            _take(flat, tensors)

    def add(self, tensors: Sequence[torch.Tensor]) -> Waiting:
        """The leader's become the sum of everybody's.  Raises `Broken`."""
        flat = self._flattened(tensors, full=True)
        yield from self._done(lambda: distributed.reduce(flat, 0, async_op=True))
        if self._rank == 0:
            _take(flat, tensors)

    def close(self) -> None:
        """Leave it, whatever the others do."""
        if not distributed.is_initialized():
            return
        if self._nccl and distributed.group.WORLD is not None:
            distributed.group.WORLD.abort()  # to say goodbye would mean to wait for those who are gone
        distributed.destroy_process_group()

    def _flattened(self, tensors: Sequence[torch.Tensor], *, full: bool) -> torch.Tensor:
        """Memory for all of them in a row, with their values in it if it is to be `full`."""
        size = sum(tensor.numel() for tensor in tensors)
        if size not in self._flat:
            self._flat[size] = torch.empty(size, device=tensors[0].device)
        flat = self._flat[size]
        if full:
            torch.cat([tensor.detach().reshape(-1) for tensor in tensors], out=flat)
        return flat

    def _done(self, start: Callable[[], distributed.Work | None]) -> Waiting:
        late = time.monotonic() + SECONDS
        try:
            work = start()
            assert work is not None, "this process is in the group"
            while not work.is_completed():
                self._check()
                if time.monotonic() > late:
                    raise Broken(f"nothing came for {SECONDS:g} seconds")
                time.sleep(POLL)
                yield
            work.wait()
        except RuntimeError as error:
            raise Broken(str(error)) from error


@torch.no_grad()
def _take(flat: torch.Tensor, tensors: Sequence[torch.Tensor]) -> None:
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    torch._foreach_copy_(list(tensors), [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)])
