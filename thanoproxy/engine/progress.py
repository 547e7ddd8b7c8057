"""How far a BUILD is, told often enough and no oftener."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Literal, TypeAlias

from thanoproxy.workers import jobs

__all__ = ["INTERVAL", "Meter", "Phase", "Step", "Steps"]

INTERVAL = 3.0
"""Seconds between two reports of the same phase."""

Phase: TypeAlias = Literal["queued", "loading", "features", "head", "training", "validating", "saving"]

Step: TypeAlias = jobs.Progress | jobs.Remark | None
"""What training yields at each batch boundary: mostly nothing, now and then a report or a remark."""

Steps: TypeAlias = Generator[Step, None, jobs.Built]


class Meter:
    """Counts the images of one phase at a time: `begin` starts a phase, `advance` counts, and both say so when a report is due."""

    def __init__(self, job: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._job = job
        self._clock = clock
        self.started = clock()
        self._reported = float("-inf")
        self._phase: Phase = "loading"
        self._phase_started = self.started
        self._done = self._total = self._before = 0
        self._loss: float | None = None
        self._accuracy: float | None = None

    @property
    def seconds(self) -> float:
        """Since the job began."""
        return self._clock() - self.started

    def resume(self, seconds: float) -> None:
        """The job goes on, and had run so long before."""
        self.started -= seconds

    def begin(self, phase: Phase, total: int = 0, done: int = 0) -> jobs.Progress:
        """A phase that will see `total` images starts now; `done` of them were seen before a worker died."""
        self._phase, self._total, self._done, self._before = phase, total, done, done
        self._phase_started = self._clock()
        return self.report()

    def advance(self, images: int, *, loss: float | None = None, accuracy: float | None = None) -> Step:
        """`images` more are done; a report if the last one is `INTERVAL` ago."""
        self._done += images
        self._loss = self._loss if loss is None else loss
        self._accuracy = self._accuracy if accuracy is None else accuracy
        return self.report() if self.due else None

    @property
    def due(self) -> bool:
        """Whether `advance` would report now: only then is it worth asking a device for figures."""
        return self._clock() - self._reported >= INTERVAL

    def measured(self, loss: float, accuracy: float) -> None:
        """For the next report."""
        self._loss, self._accuracy = loss, accuracy

    def report(self, epoch: jobs.Epoch | None = None) -> jobs.Progress:
        """How far it is now; `epoch` where one has just ended."""
        self._reported = self._clock()
        elapsed = self._reported - self._phase_started
        rate = (self._done - self._before) / elapsed if elapsed > 0 else 0.0
        return jobs.Progress(
            job=self._job,
            phase=self._phase,
            images_done=self._done,
            images_total=self._total,
            images_per_second=rate,
            loss=self._loss,
            accuracy=self._accuracy,
            seconds_left=(self._total - self._done) / rate if rate > 0 else None,
            epoch=epoch,
        )

    def switch(self, phase: Phase) -> None:
        """The same count goes on under another name, as when training stops for a moment to validate."""
        self._phase = phase

    @property
    def images_per_second(self) -> float:
        """Of the phase so far."""
        elapsed = self._clock() - self._phase_started
        return (self._done - self._before) / elapsed if elapsed > 0 else 0.0

    def remark(self, message: str, detail: str | None = None) -> jobs.Remark:
        """Something that the client should know."""
        return jobs.Remark(job=self._job, severity="NOTICE", message=message, detail=detail)
