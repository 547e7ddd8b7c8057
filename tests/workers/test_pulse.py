"""When a worker is taken for hung."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from thanoproxy.workers.pulse import LOOKS, Pulse


def verdict(answers: Sequence[Mapping[str, int] | None]) -> str | None:
    pulse = Pulse()
    for answer in answers:
        pulse = pulse.after(answer)
    return pulse.problem


def test_idle_and_busy_workers_live_for_ever() -> None:
    assert verdict([{}] * 100) is None
    assert verdict([{"device": turn, "loader 0": 7 * turn} for turn in range(100)]) is None
    assert verdict([{"device": 3}, {}] * 100) is None


@pytest.mark.parametrize("looks", [LOOKS, LOOKS + 1])
def test_a_thread_that_is_at_the_same_work_for_long_hangs(looks: int) -> None:
    hung = [{"device": turn, "loader 1": 5} for turn in range(looks)]
    assert verdict(hung) == (None if looks == LOOKS else "Its loader 1 thread did not get on")
    assert verdict([*hung, {"device": looks}]) is None


def test_one_that_does_not_answer_hangs() -> None:
    assert verdict([{"device": 1}, *[None] * (LOOKS - 1)]) is None
    assert verdict([*[None] * (LOOKS - 1), {}, None]) is None, "it was slow"
    assert verdict([None] * LOOKS) == "It did not answer"
