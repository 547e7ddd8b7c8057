"""What a session may ask of the workers, whichever way they run.

Several pools keep this one interface: `thanoproxy.workers.inline` (a thread of this process, for tests), `thanoproxy.workers.local`
(processes on this machine), `thanoproxy.workers.attached` (those of another process's local pool) and, later, Ray actors.
Cancellation is asyncio's own: whoever awaits a job and is cancelled has cancelled the job, and the worker stops at its next batch.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from thanoproxy.workers import jobs

__all__ = ["Pool"]


class Pool(Protocol):
    """Workers that predict and train.  Errors are `thanoproxy.errors.ThanoError`s."""

    async def start(self) -> None:
        """Start the workers and return once each is ready."""

    async def close(self) -> None:
        """Stop them; jobs still running fail with `Canceled`."""

    async def load(self, request: jobs.Load) -> jobs.Loaded:
        """Verify an artifact and make it resident.  Raises `ArtifactCorrupt`."""

    async def predict(self, request: jobs.Predict) -> jobs.Predicted:
        """Predict one batch.  A row that fails is in `failures`; what fails the whole batch is raised."""

    async def identify(self, request: jobs.Identify) -> jobs.Identified:
        """Look at images without reading them."""

    async def export(self, request: jobs.Export) -> jobs.Exported:
        """Write an artifact to a file of the user's.  Raises `DuplicateFile` and its like."""

    async def upload(self, request: jobs.Upload) -> jobs.Built:
        """Make an artifact of a file of the user's.  Raises `InvalidOption` for what is no such model."""

    def build(self, request: jobs.Build) -> AsyncGenerator[jobs.Progress | jobs.Remark | jobs.Built, None]:
        """Train: progress and remarks while it runs, then one `Built`, then the end.  Closing the iterator cancels the job."""
