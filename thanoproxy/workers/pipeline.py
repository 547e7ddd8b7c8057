"""Batches of predictions on their way through a device: launched by its thread, and answered in the same order.

With a depth of 1, as on a CPU, a batch is computed and answered before `launch` returns.  With a greater one `launch` only tells the device
what to do, and a second thread waits for the results and answers: the device has its next batch before it is through with this one, and
never waits for Python to write replies.  Whose batch comes next is decided before each launch, so no more than `depth` batches are decided
beforehand.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable

from thanoproxy.engine.inference import Launched, Part, Predictor, Vectors
from thanoproxy.engine.model import Model
from thanoproxy.workers.predicting import Chunk

__all__ = ["Pipeline"]

Answer = Callable[[list[Chunk], list[Vectors] | Exception], None]


class Pipeline:
    """`answer` is called once for each batch: with its chunks and the vectors of their images, in order, or what it failed with.

    `changed` is notified whenever there is room again.
    """

    def __init__(self, predictor: Predictor, depth: int, changed: threading.Condition, answer: Answer) -> None:
        self._predictor = predictor
        self._depth = depth
        self._changed = changed
        self._answer = answer
        self._under_way = 0
        self._launched: queue.SimpleQueue[tuple[list[Chunk], Launched] | None] = queue.SimpleQueue()
        self._numbers = itertools.count(1)
        self._waits_for: int | None = None
        self._thread = threading.Thread(target=self._collect, name="results", daemon=True) if depth > 1 else None
        if self._thread is not None:
            self._thread.start()

    @property
    def has_room(self) -> bool:
        """Whether the next batch may be launched."""
        return self._under_way < self._depth

    def at_work(self) -> dict[str, int]:
        """As in `LoaderThreads`: the batch whose results are waited for."""
        number = self._waits_for
        return {} if number is None else {"results": number}

    def launch(self, chunks: list[Chunk]) -> None:
        """On the device's thread, where there is room."""
        # The rows of each model side by side.
        chunks.sort(key=lambda chunk: chunk.prediction.request.artifact)
        images = [one for chunk in chunks for one in chunk.pixels.values()]
        if not images:
            self._answer(chunks, [])
            return
        try:
            models = itertools.groupby(chunks, lambda chunk: chunk.prediction.model)
            launched = self._predictor.launch([_part(model, list(of)) for model, of in models], images)
            found = launched.collect() if self._thread is None else None
        except Exception as error:  # whatever it is, it is the answer of all that were in the batch
            self._answer(chunks, error)
            return
        if found is not None:
            self._answer(chunks, found)
            return
        with self._changed:
            self._under_way += 1
        self._launched.put((chunks, launched))

    def close(self) -> None:
        """Answer what is under way, and stop."""
        if self._thread is not None:
            self._launched.put(None)
            self._thread.join()

    def _collect(self) -> None:
        while (batch := self._launched.get()) is not None:
            self._waits_for = next(self._numbers)
            chunks, launched = batch
            outcome: list[Vectors] | Exception
            try:
                try:
                    launched.wait()
                finally:
                    self._leave()
                outcome = launched.collect()
            except Exception as error:  # the device's, for whatever it was told to do since
                outcome = error
            self._answer(chunks, outcome)
            self._waits_for = None
            del batch, chunks, launched, outcome  # a waiting thread must not keep the last batch alive

    def _leave(self) -> None:
        """The device is through: the next batch can go there while this one is answered."""
        with self._changed:
            self._under_way -= 1
            self._changed.notify()


def _part(model: Model, chunks: list[Chunk]) -> Part:
    """What is asked of a model for any of these rows is computed for all of them; the best classes are found when they are answered."""
    vectors = {vector for chunk in chunks for vector in chunk.prediction.request.vectors}
    return Part(model, sum(len(chunk.pixels) for chunk in chunks), vectors)
