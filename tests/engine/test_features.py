"""Features that do not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from thanoproxy.engine import features as module
from thanoproxy.engine.device import choose
from thanoproxy.engine.features import Features
from thanoproxy.engine.head import Examples, fit_head, logits_of
from thanoproxy.errors import FileFailure

ROWS, WIDTH = 1000, 20


@pytest.fixture
def made() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (ROWS,), generator=random)
    centres = torch.randn(3, WIDTH, generator=random)
    return centres[labels] + torch.randn(ROWS, WIDTH, generator=random) * torch.logspace(-1, 1, WIDTH) + 5, labels


@pytest.fixture(params=["in memory", "in a file"])
def kept(request: pytest.FixtureRequest, made: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> Iterator[Features]:
    monkeypatch.setattr(module, "PART_BYTES", 100 * WIDTH * 4)
    kept = Features(choose("cpu"), None if request.param == "in memory" else 17 * WIDTH * 4)
    for features, labels in zip(made[0].split(64), made[1].split(64), strict=True):
        kept.add(features, labels)
    yield kept
    kept.close()


def read(examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
    features, labels = zip(*examples.parts(), strict=True)
    return torch.cat(features), torch.cat(labels)


@pytest.mark.parametrize("rows", [range(0, ROWS, 3), range(ROWS), range(990, 1000), [0, 99, 100, 101, 999]])
def test_the_rows_that_are_asked_for_come_in_order_each_time(
    kept: Features, made: tuple[torch.Tensor, torch.Tensor], rows: list[int]
) -> None:
    examples = kept.table(rows)
    for _ in range(2):
        features, labels = read(examples)
        assert torch.equal(features, made[0][list(rows)])
        assert torch.equal(labels, made[1][list(rows)])
    assert len(examples) == len(rows)


def test_no_rows(kept: Features) -> None:
    assert list(kept.table([]).parts()) == []


def test_the_head_is_the_same_from_a_file_as_from_memory(kept: Features, made: tuple[torch.Tensor, torch.Tensor]) -> None:
    whole = Features(choose("cpu"))
    whole.add(*made)
    weights = torch.tensor([1.0, 2.0, 0.5])
    rows = range(0, ROWS, 2), range(1, ROWS, 2)
    heads = [nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 3)]
    [one], [other] = (list(fit_head(head, *map(of.table, rows), weights, epochs=1)) for head, of in zip(heads, [whole, kept], strict=True))
    torch.testing.assert_close(heads[0].weight, heads[1].weight, atol=2e-3, rtol=2e-2)
    assert one.loss == pytest.approx(other.loss, abs=1e-4)
    assert one.validation_accuracy == pytest.approx(other.validation_accuracy, abs=0.004)
    logits, labels = logits_of(heads[1], kept.table(rows[1]))
    assert len(logits) == len(labels) == ROWS / 2


def test_a_full_disk_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.tempfile, "TemporaryFile", lambda **_: open("/dev/full", "wb"))  # noqa: SIM115 - closed by `close`
    kept = Features(choose("cpu"), 10)
    with pytest.raises(FileFailure, match="No space left on device") as problem:
        kept.add(torch.zeros(4, WIDTH), torch.zeros(4, dtype=torch.int64))
    assert "TMPDIR" in str(problem.value.hint)
    kept.close()
