"""The way of pixels to a device: on a CPU none, and nobody gets far ahead of a device that computes by itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from thanoproxy.engine.device import choose
from thanoproxy.engine.staging import Mark, Pace, Staging, open_staging
from thanoproxy.models.preprocessing import Preprocessing, normalize

IMAGES = [torch.full((3, 4, 4), value, dtype=torch.uint8) for value in range(3)]


def test_on_a_cpu_there_is_nowhere_to_go() -> None:
    staging = open_staging(choose("cpu"))
    together = torch.stack(IMAGES)
    with staging.on_device(IMAGES) as pixels:
        assert torch.equal(pixels, together)
    with staging.on_device(together) as pixels:
        assert pixels is together
    assert staging.fetch(together) is together
    assert staging.small(together) is together
    assert staging.mark() is None


@dataclass
class Numbered:
    """A mark that tells when it is waited for."""

    number: int
    waited: list[int]

    def synchronize(self) -> None:
        self.waited.append(self.number)


class Slow:
    """A device that gets to no mark before somebody waits for it."""

    def __init__(self) -> None:
        self.marks = 0
        self.waited: list[int] = []

    def mark(self) -> Mark:
        self.marks += 1
        return Numbered(self.marks, self.waited)


def test_who_needs_no_results_is_held_two_steps_ahead() -> None:
    slow = Slow()
    staging: Staging = slow  # type: ignore[assignment]
    pace = Pace(staging, 2)
    waited = []
    for _ in range(5):
        pace.step()
        waited.append(list(slow.waited))
    assert waited == [[], [], [1], [1, 2], [1, 2, 3]]


def test_on_a_cpu_nobody_is_held() -> None:
    pace = Pace(open_staging(choose("cpu")), 1)
    for _ in range(3):
        pace.step()


def test_what_prepares_pixels_serves_predictions_and_training_alike() -> None:
    """Mean and deviation are kept, whoever asks first: training needs them outside of inference mode."""
    preprocessing = Preprocessing(resize=4, crop=4, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    pixels = torch.stack(IMAGES)
    with torch.inference_mode():
        predicted = normalize(pixels, preprocessing, torch.float32)
    weight = torch.ones(1, 3, 1, 1, requires_grad=True)
    images = normalize(pixels, preprocessing, torch.float32)
    (images * weight).sum().backward()
    assert torch.equal(images, predicted)
    assert weight.grad is not None
    mean, std = (torch.tensor(of).view(1, 3, 1, 1) * 255 for of in (preprocessing.mean, preprocessing.std))
    torch.testing.assert_close(images, (pixels.float() - mean) / std)
