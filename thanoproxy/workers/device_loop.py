"""The heart of a worker: one thread that owns a device and gives it, batch by batch, to whoever's turn it is.

Around that thread: loader threads that read and decode images ahead of it, some for models, and one that knows predictions from before.
Requests come in through `submit` from any thread and never block; replies go out by the callback given with each, on any thread.

    submit(Predict) - model resident? - known (recall) - decode (Intake) - ready chunks --\\
    submit(Build)   - queue of builds ---------------------------------------------------- next_turn - device
    submit(Cancel)  - takes effect before the next turn
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from thanoproxy.catalog.artifacts import open_store
from thanoproxy.engine.build import build
from thanoproxy.engine.compiling import Compiler
from thanoproxy.engine.device import Device, choose, is_out_of_memory
from thanoproxy.engine.exporting import export_model
from thanoproxy.engine.inference import Predictor, Vectors
from thanoproxy.engine.model import Model
from thanoproxy.engine.progress import Step
from thanoproxy.engine.residency import Residency
from thanoproxy.engine.uploading import upload_model
from thanoproxy.errors import Canceled, DeviceOutOfMemory, InternalError, ThanoError, TooManyRequests
from thanoproxy.images import open_sources
from thanoproxy.images.beneath import Roots
from thanoproxy.images.loader import LoaderThreads
from thanoproxy.workers import jobs
from thanoproxy.workers.cache import PredictionCache
from thanoproxy.workers.decoding import device_decoding_for, loaders_for
from thanoproxy.workers.intake import Intake
from thanoproxy.workers.memory import KeptMemory, give_back_freed_memory
from thanoproxy.workers.pipeline import Pipeline
from thanoproxy.workers.predicting import BULK, INTERACTIVE, Chunk, Prediction
from thanoproxy.workers.recall import keep, recall
from thanoproxy.workers.schedule import Passed, next_turn
from thanoproxy.workers.settings import WorkerSettings
from thanoproxy.workers.workshop import open_workshop

__all__ = ["DeviceLoop", "Reply"]

Reply = Callable[[jobs.Reply], None]
Key = tuple[object, str]

QUEUED_INTERVAL = 5.0
"""Seconds between two reports of a BUILD that waits for another one to end."""

log = logging.getLogger(__name__)


@dataclass
class _Task:
    """A request under way: whose it is, where its replies go, and what it has become."""

    key: Key
    request: jobs.Predict | jobs.Build | jobs.Load | jobs.Identify | jobs.Export | jobs.Upload
    reply: Reply
    prediction: Prediction | None = None
    steps: Generator[Step, None, jobs.Built] | None = None
    reported: float = 0.0


class DeviceLoop:
    """A worker on `device`, or the one called so.  Raises `ConfigurationError` for a device or a store that is not there.

    `on_fatal` is called when the device itself is lost, which nothing in this process can mend.
    """

    def __init__(
        self, settings: WorkerSettings, device: str | Device = "auto", on_fatal: Callable[[BaseException], None] = lambda error: None
    ) -> None:
        self.device = choose(device, settings.threads) if isinstance(device, str) else device
        self._on_fatal = on_fatal
        self._queue_rows = settings.queue_rows
        store = self._store = open_store(settings.artifacts_url)
        self._files = Roots(settings.file_roots)
        sources = self._sources = open_sources(settings.image_roots, settings.remote_images)
        self._loaders = loaders_for(settings, self.device, _one_core)
        aside = self.device.enter_aside
        begins = {"model loader": aside, "model checker": aside, "transfer": _one_core, "recaller": _one_core}
        self._helpers = {name: LoaderThreads(1, begin) for name, begin in begins.items()}
        self._cache = PredictionCache(settings.prediction_cache)
        self._residency = Residency(store, self.device, settings.model_memory)
        self._workshop = open_workshop(settings, self.device, store, sources, self._loaders)
        self._changed = threading.Condition()
        self._decoding = device_decoding_for(settings, self.device, _one_core)
        self._intake = Intake(sources, self._loaders, self._changed, 4 * self.device.predict_batch, self._chunk_ready, self._decoding)
        self._tasks: dict[Key, _Task] = {}
        self._ready: list[Chunk] = []
        self._builds: deque[_Task] = deque()
        self._passed = Passed()
        self._turns = 0
        self._turn: int | None = None
        self._closing = False
        self._memory = KeptMemory()
        self._busy = threading.Lock()
        compiles = settings.compile == "auto" and self.device.is_cuda
        self._compiler = Compiler(self.device, self._busy, lambda: not self._builds) if compiles else None
        self._pipeline = Pipeline(Predictor(self.device, self._compiler), self.device.depth, self._changed, self._answer)
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    # From any thread.

    def submit(self, request: jobs.Request, reply: Reply, owner: object = None) -> None:
        """Begin with a request; its replies go to `reply`.  `owner` sets apart jobs of the same name from different fronts."""
        if isinstance(request, jobs.Cancel):
            self._cancel((owner, request.job))
            return
        if isinstance(request, jobs.Ping):  # not under the lock, which a thread that hangs may hold
            reply(jobs.Pong(request.job, self._at_work()))
            return
        task = _Task((owner, request.job), request, reply)
        with self._changed:
            # A statement begins with this, and then has a few batches here at once: one that has begun is not refused.
            if isinstance(request, jobs.Load) and (waiting := self._rows_waiting()) >= self._queue_rows:
                task.reply(_failed(request.job, _too_many(waiting)))
                return
            self._tasks[task.key] = task
            if isinstance(request, jobs.Build):
                self._builds.append(task)
                self._changed.notify()
            elif isinstance(request, jobs.Identify):
                self._loaders.submit(lambda: self._identify(task, request), INTERACTIVE)
            elif isinstance(request, jobs.Export | jobs.Upload):
                self._helpers["transfer"].submit(lambda: self._transfer(task, request))
            elif (model := self._residency.loaded(request.artifact)) is None:
                self._helpers["model loader"].submit(lambda: self._load(task, request))
            elif isinstance(request, jobs.Predict):
                self._begin(task, request, model)
            else:
                # Whoever has a model that is here does not wait for one that is not.
                self._helpers["model checker"].submit(lambda: self._load(task, request))

    def _at_work(self) -> dict[str, int]:
        kinds = {"loader": self._loaders, "decoder": self._decoding.threads, **self._helpers}
        found = {f"{name} {index}": at for name, of in kinds.items() for index, at in of.at_work().items()}
        return {**({} if (turn := self._turn) is None else {"device": turn}), **self._pipeline.at_work(), **found}

    def drop(self, owner: object) -> None:
        """A front is gone: cancel everything of its."""
        with self._changed:
            for key in [key for key in self._tasks if key[0] is owner]:
                self._cancel(key)

    def close(self) -> None:
        """Cancel everything and stop the threads."""
        with self._changed:
            for key in list(self._tasks):
                self._cancel(key)
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._sources.close()
        self._pipeline.close()
        if self._compiler is not None:
            self._compiler.close()
        for helper in self._helpers.values():
            helper.close()
        self._decoding.close()
        self._loaders.close()

    def _cancel(self, key: Key) -> None:
        with self._changed:
            task = self._tasks.get(key)
            if task is None:
                return
            self._fail(task, Canceled("canceling statement due to user request"))
            if task.prediction is not None:
                task.prediction.canceled = True
                for chunk in [one for one in self._ready if one.prediction is task.prediction]:
                    self._ready.remove(chunk)
                    self._intake.done(chunk)
                self._intake.drop(task.prediction)
            self._changed.notify()

    # On the threads for models: that which loads them, that which looks whether those that are loaded are still good, that for transfers.

    def _load(self, task: _Task, request: jobs.Predict | jobs.Load) -> None:
        if self._tasks.get(task.key) is not task:
            return
        try:
            model = self._residency.get(request.artifact, verify=isinstance(request, jobs.Load))
        except Exception as error:  # whatever it is, it is this request's answer
            self._if_device_lost(error)
            self._fail(task, error)
            return
        with self._changed:
            if self._tasks.get(task.key) is not task:
                return
            if isinstance(request, jobs.Predict):
                self._begin(task, request, model)
            else:
                self._finish(task, jobs.Loaded(request.job, model.classes, self.device.predict_batch))

    def _transfer(self, task: _Task, request: jobs.Export | jobs.Upload) -> None:
        try:
            self._go_on(task)
            work: Any = export_model if isinstance(request, jobs.Export) else upload_model
            answer = work(self._store, self._files, request, partial(self._go_on, task))
        except Exception as error:  # whatever it is, it is this request's answer
            self._fail(task, error)
        else:
            self._finish(task, answer)
        give_back_freed_memory()

    def _begin(self, task: _Task, request: jobs.Predict, model: Model) -> None:
        if request.cache and self._cache:
            # By a thread of its own, so that what is known waits for no image that is being decoded.
            self._helpers["recaller"].submit(lambda: self._recall(task, request, model), BULK if request.bulk else INTERACTIVE)
        else:
            self._take_in(task, Prediction(task.key, request, model))

    def _take_in(self, task: _Task, prediction: Prediction) -> None:
        prediction.begin()
        if not prediction.chunks:
            self._finish(task, prediction.answer())
            return
        with self._changed:
            if self._tasks.get(task.key) is task:
                task.prediction = prediction
                self._intake.add(prediction)

    # On the recaller's thread.

    def _recall(self, task: _Task, request: jobs.Predict, model: Model) -> None:
        if self._tasks.get(task.key) is not task:
            return
        try:
            prediction = Prediction(task.key, request, model)
            recall(prediction, self._sources, self._cache)
            self._take_in(task, prediction)
        except Exception as error:  # whatever it is, it is this request's answer
            self._fail(task, error)
            return
        log.debug("job %s: %d of %d images are computed", request.job, prediction.computed, len(prediction.images))

    # On a loader thread.

    def _identify(self, task: _Task, request: jobs.Identify) -> None:
        identities = [None if image is None else self._sources.identity(image) for image in request.images]
        with self._changed:
            if self._tasks.get(task.key) is task:
                self._finish(task, jobs.Identified(request.job, identities))

    # On a loader thread, under the lock.

    def _chunk_ready(self, chunk: Chunk) -> None:
        self._ready.append(chunk)
        self._changed.notify()

    # On the device's thread.

    def _run(self) -> None:
        self.device.enter()
        self.device.use_threads()
        while True:
            kept = None if self._builds else self._memory.left()
            with self._changed:
                if not self._changed.wait_for(self._has_work, kept):
                    continue
                if self._closing:
                    self._close_builds()
                    return
                kind, chosen, self._passed = next_turn([one.ready() for one in self._ready], bool(self._builds), self._passed)
                chunks = [self._ready[at] for at in chosen]
                for chunk in chunks:
                    self._ready.remove(chunk)
            self._turns += 1
            self._turn = self._turns
            try:
                with self._busy:
                    if kind == "predict":
                        self._pipeline.launch(chunks)
                    else:
                        self._train()
            except Exception as error:
                log.exception("the device loop failed")
                self._on_fatal(error)
            self._turn = None
            del chunks  # a waiting thread must not keep the last images alive

    def _has_work(self) -> bool:
        return self._closing or (self._pipeline.has_room and bool(self._ready or self._builds))

    def _answer(self, chunks: list[Chunk], outcome: list[Vectors] | Exception) -> None:
        """What a batch has come to; on the thread that waits for results, where there is one."""
        if isinstance(outcome, Exception):
            self._if_device_lost(outcome)
        found = iter(() if isinstance(outcome, Exception) else outcome)
        with self._changed:
            for chunk in chunks:
                task = self._task_of(chunk)
                if isinstance(outcome, Exception):
                    if task is not None:
                        self._fail(task, outcome)
                else:
                    self._take_results(chunk, list(itertools.islice(found, len(chunk.pixels))), task)
                self._intake.done(chunk)
                chunk.pixels = {}

    def _take_results(self, chunk: Chunk, found: list[Vectors], task: _Task | None) -> None:
        keep(chunk, found, self._cache)
        if chunk.prediction.finish(chunk, found) and task is not None:
            self._finish(task, chunk.prediction.answer())

    def _train(self) -> None:
        """One step of the oldest BUILD."""
        task = self._builds[0]
        request = task.request
        assert isinstance(request, jobs.Build), "only builds are queued here"
        if task.steps is None:
            task.steps = build(request, self._workshop, partial(self._go_on, task))
        if self._tasks.get(task.key) is not task:  # canceled
            self._end_build(task)
            return
        try:
            step = next(task.steps)
        except StopIteration as end:
            self._end_build(task)
            self._finish(task, end.value)
        except Exception as error:
            self._if_device_lost(error)
            self._end_build(task)
            self._fail(task, error)
        else:
            if step is not None and self._tasks.get(task.key) is task:
                task.reply(step)
            self._tell_queued()

    def _end_build(self, task: _Task) -> None:
        if task.steps is not None:
            task.steps.close()
        task.steps = None
        with self._changed:
            self._builds.remove(task)
        self.device.release()
        self._memory.freed()

    def _close_builds(self) -> None:
        for task in self._builds:
            if task.steps is not None:
                task.steps.close()

    def _tell_queued(self) -> None:
        now = time.monotonic()
        with self._changed:
            waiting = [task for task in list(self._builds)[1:] if now - task.reported >= QUEUED_INTERVAL]
        for task in waiting:
            task.reported = now
            task.reply(jobs.Progress(job=task.key[1], phase="queued", images_done=0, images_total=0, images_per_second=0.0))

    def _if_device_lost(self, error: Exception) -> None:
        if self.device.is_lost(error):
            log.critical("the CUDA device is lost: %s", error)
            self._on_fatal(error)

    # Ends.

    def _task_of(self, chunk: Chunk) -> _Task | None:
        task = self._tasks.get(chunk.prediction.key)
        return task if task is not None and task.prediction is chunk.prediction else None

    def _go_on(self, task: _Task) -> None:
        if self._tasks.get(task.key) is not task:
            raise Canceled("canceling statement due to user request")

    def _finish(self, task: _Task, answer: jobs.Reply) -> None:
        if self._tasks.pop(task.key, None) is not None:
            task.reply(answer)

    def _fail(self, task: _Task, error: Exception) -> None:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            error = DeviceOutOfMemory("there is too little memory on the device", detail=str(error))
        elif not isinstance(error, ThanoError):
            log.error("job %s failed", task.key[1], exc_info=error)
            error = InternalError("the worker failed", detail=f"{type(error).__name__}: {error}")
        self._finish(task, _failed(task.key[1], error))

    def _rows_waiting(self) -> int:
        return sum(_rows_of(task) for task in self._tasks.values() if isinstance(task.request, jobs.Predict))


def _rows_of(task: _Task) -> int:
    """How many rows wait for the device, as far as is known."""
    assert isinstance(task.request, jobs.Predict), "asked of no other"
    rows = len(task.request.images) if task.prediction is None else task.prediction.computed
    return rows if task.request.most is None else min(rows, task.request.most)


def _too_many(rows: int) -> TooManyRequests:
    return TooManyRequests(
        "too many rows wait to be predicted",
        detail=f"There are {rows} at the worker that has the fewest.",
        hint="Try again later.  How many may wait is the setting workers.queue_rows.",
    )


def _failed(job: str, error: ThanoError) -> jobs.Failed:
    return jobs.Failed(job, jobs.Failure(**error.to_fields()))  # type: ignore[arg-type]


def _one_core() -> None:
    torch.set_num_threads(1)
