"""The features of every row of a BUILD, computed once and read many times: on the device while they are few, beyond that in a file.

The file is read in order and in parts, so that what is in memory does not grow with the rows; the system keeps as much of it there as
there is room for.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np
import torch

from thanoproxy.engine.device import Device
from thanoproxy.engine.head import Examples, Table
from thanoproxy.errors import writing
from thanoproxy.workers.spool import MAKE_ROOM

__all__ = ["Features"]

CPU_BYTES, CUDA_BYTES = 256 << 20, 4 << 30
"""What may be held on the device; for a moment it is there twice, when the rows are split."""

PART_BYTES = 32 << 20


class Features:
    """float32 (rows, features) and int64 (rows,) labels, fed in order by `add`; afterwards `table` gives those of some rows.

    `budget` is in bytes.  Raises `FileFailure` where the disk is full.
    """

    def __init__(self, device: Device, budget: int | None = None) -> None:
        self._device = device.device
        self._left = (CUDA_BYTES if device.is_cuda else CPU_BYTES) if budget is None else budget
        self._held: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []
        self._file: IO[bytes] | None = None
        self._width = 0

    def add(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """The next rows; labels on the CPU."""
        self._width = features.shape[1]
        self._held.append(features)
        self._labels.append(labels)
        self._left -= features.nbytes
        if self._left < 0:
            self._spill()

    def table(self, rows: Sequence[int]) -> Examples:
        """Those of `rows`, which ascend."""
        chosen = torch.from_numpy(np.asarray(rows, np.int64))
        labels = torch.cat(self._labels)
        if self._file is None:
            if len(self._held) > 1:
                self._held = [torch.cat(self._held)]
            return Table(self._held[0][chosen.to(self._device)], labels[chosen].to(self._device))
        self._spill()
        return _FileTable(self._file, self._width, chosen, labels[chosen], self._device)

    def close(self) -> None:
        """Let go of it all; tables of a file are of no use afterwards."""
        self._held.clear()
        if self._file is not None:
            with contextlib.suppress(OSError):  # what did not fit is written once more
                self._file.close()

    def _spill(self) -> None:
        detail = f"There are too many for memory: {4 * self._width} bytes for a row go to a file in {tempfile.gettempdir()}."
        with writing("the features of the images cannot be kept", detail=detail, hint=MAKE_ROOM):
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="thanoproxy-features-")  # noqa: SIM115 - closed by `close`; it has no name
            for features in self._held:
                self._file.write(features.cpu().contiguous().numpy().data)
            self._file.flush()
        self._held.clear()


class _FileTable(Examples):
    """Rows of a file of all rows."""

    def __init__(self, file: IO[bytes], width: int, rows: torch.Tensor, labels: torch.Tensor, device: torch.device) -> None:
        self._file = file
        self._width = width
        self._rows = rows
        self._labels = labels
        self._device = device

    def __len__(self) -> int:
        return len(self._rows)

    def parts(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        size = max(1, PART_BYTES // (4 * self._width))
        self._file.seek(0)
        first = done = 0
        while data := self._file.read(4 * self._width * size):
            features = torch.frombuffer(bytearray(data), dtype=torch.float32).view(-1, self._width)
            until = int(torch.searchsorted(self._rows, first + len(features)))
            chosen = self._rows[done:until] - first
            if len(chosen):
                yield features[chosen].to(self._device), self._labels[done:until].to(self._device)
            first, done = first + len(features), until
