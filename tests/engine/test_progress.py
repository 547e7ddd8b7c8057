"""Reports: often enough, and no oftener."""

from __future__ import annotations

from thanoproxy.engine.progress import INTERVAL, Meter
from thanoproxy.workers import jobs


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_report_at_the_start_of_a_phase_and_then_every_interval() -> None:
    clock = Clock()
    meter = Meter("job", clock)
    assert meter.begin("training", 100).images_total == 100
    reports = []
    for _ in range(20):
        clock.now += INTERVAL / 4
        reports.append(meter.advance(5, loss=1.0, accuracy=0.5))
    assert [report is not None for report in reports] == [False, False, False, True] * 5
    last = reports[-1]
    assert last is not None
    assert (last.phase, last.images_done, last.loss, last.accuracy) == ("training", 100, 1.0, 0.5)
    assert last.images_per_second == 100 / (5 * INTERVAL)
    assert last.seconds_left == 0


def test_time_left_is_what_the_rate_so_far_says() -> None:
    clock = Clock()
    meter = Meter("job", clock)
    meter.begin("training", 100)
    clock.now += 10
    meter.advance(25)
    assert meter.report().seconds_left == 30


def test_nothing_is_said_of_the_time_before_there_is_a_rate() -> None:
    report = Meter("job", Clock()).begin("features", 10)
    assert (report.images_per_second, report.seconds_left) == (0.0, None)


def test_validating_is_a_word_for_the_same_count() -> None:
    meter = Meter("job", Clock())
    meter.begin("training", 100)
    meter.advance(50)
    meter.switch("validating")
    assert (meter.report().phase, meter.report().images_done) == ("validating", 50)


def test_an_interval_is_well_below_the_ten_seconds_promised() -> None:
    assert INTERVAL <= 5


def test_figures_are_only_asked_for_when_a_report_is_due() -> None:
    now = [0.0]
    meter = Meter("job", clock=lambda: now[0])
    assert meter.due, "nothing was ever reported"
    meter.begin("training", 100)
    assert not meter.due
    now[0] = INTERVAL
    assert meter.due
    meter.measured(0.5, 0.75)
    report = meter.advance(1)
    assert isinstance(report, jobs.Progress)
    assert (report.loss, report.accuracy) == (0.5, 0.75)
    assert not meter.due
