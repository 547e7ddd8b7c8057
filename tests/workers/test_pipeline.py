"""Batches on their way through a device that takes its time: the next one is launched meanwhile, and answers come in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tests.workers.conftest import Rows
from thanoproxy.engine.device import Device, choose
from thanoproxy.engine.inference import Launched, Part, Predictor
from thanoproxy.engine.staging import Mark, open_staging
from thanoproxy.workers import jobs
from thanoproxy.workers.device_loop import DeviceLoop
from thanoproxy.workers.settings import WorkerSettings


class Gate:
    """A mark that is reached when the test says so, or fails then."""

    def __init__(self) -> None:
        self._told: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def open(self, error: Exception | None = None) -> None:
        self._told.put(error)

    def synchronize(self) -> None:
        error = self._told.get(timeout=30)
        if error is not None:
            raise error


class SlowStaging:
    """The CPU's way, whose batches are done only when their gate is opened; `gates` are those launched."""

    def __init__(self, device: Device) -> None:
        inner = open_staging(device)
        self.on_device, self.fetch = inner.on_device, inner.fetch
        self.gates: queue.SimpleQueue[Gate] = queue.SimpleQueue()
        self.slow = True

    def mark(self) -> Mark | None:
        if not self.slow:
            return None
        gate = Gate()
        self.gates.put(gate)
        return gate


class Bench:
    """A device loop two batches deep, and the replies in the order in which they came."""

    def __init__(self, settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.device = replace(choose("cpu"), depth=2, predict_batch=4)
        self.staging = SlowStaging(self.device)
        self.sizes: list[int] = []
        self.fatal: list[BaseException] = []
        self.replies: queue.SimpleQueue[jobs.Reply] = queue.SimpleQueue()
        launch = Predictor.launch

        def counted(predictor: Predictor, parts: list[Part], images: list[torch.Tensor]) -> Launched:
            self.sizes.append(len(images))
            return launch(predictor, parts, images)

        monkeypatch.setattr("thanoproxy.engine.inference.open_staging", lambda device: self.staging)
        monkeypatch.setattr(Predictor, "launch", counted)
        self.loop = DeviceLoop(settings, self.device, self.fatal.append)

    def predict(self, job: str, artifact: str, images: list[str], *, bulk: bool = True) -> None:
        self.loop.submit(jobs.Predict(job, artifact, [*images], bulk=bulk), self.replies.put)

    def launched(self) -> Gate:
        return self.staging.gates.get(timeout=30)

    def reply(self) -> jobs.Reply:
        return self.replies.get(timeout=30)

    def nothing_more(self) -> bool:
        """That neither a batch is launched nor a reply comes, for as long as either would take."""
        with pytest.raises(queue.Empty):
            self.staging.gates.get(timeout=0.3)
        return self.replies.empty()


@pytest.fixture
def bench(settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench(settings, monkeypatch)
    yield bench
    bench.staging.slow = False
    while not bench.staging.gates.empty():
        bench.staging.gates.get().open()
    bench.loop.close()


def names(rows: Rows, *numbers: int) -> list[str]:
    return [str(rows[number][0]) for number in numbers]


def test_a_batch_is_launched_while_one_computes_and_no_third(bench: Bench, rows: Rows, artifact: str) -> None:
    for number in range(4):
        bench.predict(f"p{number}", artifact, names(rows, *range(4 * number, 4 * number + 4)))
    first, second = bench.launched(), bench.launched()
    assert bench.nothing_more(), "the first two are not done"
    second.open()
    assert bench.nothing_more(), "a stream does one after the other"
    first.open()
    answers = [bench.reply(), bench.reply()]
    bench.launched().open()
    bench.launched().open()
    answers += [bench.reply(), bench.reply()]
    answers.sort(key=lambda answer: answer.job)  # whichever was decoded first
    assert [answer.job for answer in answers] == ["p0", "p1", "p2", "p3"]
    found = [classes for answer in answers if isinstance(answer, jobs.Predicted) for classes in answer.classes]
    assert found == [(("blue", "red").index(label),) for _, label in rows[:16]]


def test_an_interactive_request_goes_before_bulk_ones_that_were_not_launched(bench: Bench, rows: Rows, artifact: str) -> None:
    bench.predict("bulk", artifact, names(rows, *range(16)))
    gates = [bench.launched(), bench.launched()]
    bench.predict("one", artifact, names(rows, 5), bulk=False)
    assert bench.nothing_more()
    gates[0].open()
    gates.append(bench.launched())
    gates[1].open()
    gates[2].open()
    assert bench.reply().job == "one", "it was in the third batch, as soon as there was room"
    assert bench.sizes[2] == 1, "four more rows would not have fitted"


def test_a_request_that_is_canceled_while_it_computes_is_answered_at_once(bench: Bench, rows: Rows, artifact: str) -> None:
    bench.predict("gone", artifact, names(rows, *range(12)))
    first, second = bench.launched(), bench.launched()
    bench.predict("stays", artifact, names(rows, 0, 1))
    bench.loop.submit(jobs.Cancel("gone"), bench.replies.put)
    answer = bench.reply()
    assert isinstance(answer, jobs.Failed)
    assert answer.failure.sqlstate == "57014"
    first.open()
    second.open()
    bench.launched().open()
    assert bench.reply().job == "stays"
    assert bench.sizes == [4, 4, 2], "its last batch was not launched"


def test_what_fails_on_the_device_fails_the_requests_of_that_batch_alone(bench: Bench, rows: Rows, artifact: str) -> None:
    bench.predict("fails", artifact, names(rows, 0, 1, 2, 3))
    first = bench.launched()
    bench.predict("works", artifact, names(rows, 4))
    second = bench.launched()
    first.open(RuntimeError("CUDA error: an illegal memory access was encountered"))
    second.open()
    failed, answered = bench.reply(), bench.reply()
    assert isinstance(failed, jobs.Failed)
    assert (failed.job, failed.failure.sqlstate) == ("fails", "XX000")
    assert answered.job == "works"
    assert not bench.fatal, "a CPU is not lost"


def test_a_lost_device_is_the_end_of_the_process(bench: Bench, rows: Rows, artifact: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "is_lost", lambda self, error: "CUDA error" in str(error))
    bench.predict("fails", artifact, names(rows, 0))
    error = RuntimeError("CUDA error: device-side assert triggered")
    bench.launched().open(error)
    assert isinstance(bench.reply(), jobs.Failed)
    assert bench.fatal == [error]


def test_closing_answers_what_is_under_way(bench: Bench, rows: Rows, artifact: str) -> None:
    bench.predict("under way", artifact, names(rows, 0))
    gate = bench.launched()
    closing = threading.Thread(target=bench.loop.close)
    closing.start()
    answer = bench.reply()
    assert isinstance(answer, jobs.Failed)
    assert answer.failure.sqlstate == "57014"
    gate.open()
    closing.join(30)
    assert not closing.is_alive()


def test_who_waits_for_results_is_watched_for_hanging(bench: Bench, rows: Rows, artifact: str) -> None:
    bench.predict("one", artifact, names(rows, 0))
    gate = bench.launched()
    pong: queue.SimpleQueue[jobs.Reply] = queue.SimpleQueue()
    for _ in range(100):
        bench.loop.submit(jobs.Ping("ping"), pong.put)
        answer = pong.get()
        assert isinstance(answer, jobs.Pong)
        if answer.at_work == {"results": 1}:
            break
        threading.Event().wait(0.01)
    assert answer.at_work == {"results": 1}
    gate.open()
    bench.reply()
