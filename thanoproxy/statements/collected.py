"""What a Collect (`thanoproxy.statements.shapes`) comes to once its model is found: a training, or the transfer of a file.

Both are one job of the workers, whose outcome is registered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from thanoproxy.catalog.records import ModelRecord
from thanoproxy.statements.options import Chosen
from thanoproxy.workers import jobs

__all__ = ["NO_ROWS", "Training", "Transfer"]


class Training(ABC):
    """A BUILD at work.  The inner query's fields arrive in text format, at `indices` of its columns."""

    kind: str
    model: str
    role: str
    version: int
    options: Chosen
    indices: Sequence[int]

    @abstractmethod
    def take(self, row: int, values: Sequence[bytes | None]) -> tuple[jobs.Image, str]:
        """Image and label of the 0-based `row`, which must be told if they cannot be used."""

    @abstractmethod
    def request(self, job: str, spool: str) -> jobs.Build:
        """The job.  Raises if the rows taken cannot make one (none at all, one class only)."""

    @abstractmethod
    def record(self, built: jobs.Built) -> ModelRecord:
        """The catalogue row of the result, signed."""

    @abstractmethod
    def summary(self, built: jobs.Built) -> tuple[Any, ...]:
        """The values of the one row that answers, as `Collect.result` lists its columns."""


class Transfer(ABC):
    """An EXPORT or UPLOAD at work, on that version of a model."""

    kind: str
    phase: jobs.Phase
    model: str
    role: str
    version: int
    position: int
    """Where the client wrote the file's name."""

    @abstractmethod
    def request(self, job: str) -> jobs.Export | jobs.Upload:
        """The job."""

    @abstractmethod
    def record(self, answer: jobs.Exported | jobs.Built) -> ModelRecord | None:
        """The catalogue row of the result, signed; None where there is nothing to register."""

    @abstractmethod
    def summary(self, answer: jobs.Exported | jobs.Built) -> tuple[Any, ...]:
        """As `Training.summary`."""


NO_ROWS = "SELECT WHERE false"
"""The inner query of a statement that collects nothing from one."""
