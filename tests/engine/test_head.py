"""The head on frozen features."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from thanoproxy.engine import head as module
from thanoproxy.engine.head import PENALTY, Table, fit_head


def table(rows: int, seed: int) -> Table:
    """Three overlapping clouds in 20 dimensions of very different scales, far from zero."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (rows,), generator=random)
    centres = torch.randn(3, 20, generator=torch.Generator().manual_seed(99))
    features = centres[labels] + torch.randn(rows, 20, generator=random)
    return Table(features * torch.logspace(-2, 2, 20) + 5, labels)


def test_it_finds_what_scikit_learn_finds() -> None:
    training, validation = table(300, 0), table(200, 1)
    head = nn.Linear(20, 3)
    [epoch] = fit_head(head, training, validation, torch.ones(3), epochs=1)
    mean, deviation = training.features.mean(0), training.features.std(0, correction=0)
    theirs = LogisticRegression(C=1 / PENALTY, max_iter=1000, tol=1e-8).fit((training.features - mean) / deviation, training.labels)
    probabilities = torch.from_numpy(theirs.predict_proba((validation.features - mean) / deviation)).float()
    with torch.no_grad():
        torch.testing.assert_close(head(validation.features).softmax(1), probabilities, atol=2e-3, rtol=0)
    assert epoch.validation_accuracy is not None
    assert epoch.validation_accuracy > 0.9


def test_each_epoch_is_a_log_entry_and_more_of_them_change_nothing_much() -> None:
    training, validation = table(300, 0), table(200, 1)
    one, five = nn.Linear(20, 3), nn.Linear(20, 3)
    [once] = fit_head(one, training, validation, torch.ones(3), epochs=1)
    log = list(fit_head(five, training, validation, torch.ones(3), epochs=5))
    assert [entry.epoch for entry in log] == [1, 2, 3, 4, 5]
    assert abs(log[-1].loss - once.loss) < 1e-3


def test_nothing_to_validate_on_is_not_a_score_of_zero() -> None:
    training = table(50, 0)
    empty = Table(training.features[:0], training.labels[:0])
    [epoch] = fit_head(nn.Linear(20, 3), training, empty, torch.ones(3), epochs=1)
    assert (epoch.validation_loss, epoch.validation_accuracy) == (None, None)


def test_a_feature_that_never_changes_does_no_harm() -> None:
    training = table(50, 0)
    training.features[:, 3] = 7.0
    head = nn.Linear(20, 3)
    list(fit_head(head, training, training, torch.ones(3), epochs=1))
    assert torch.isfinite(head.weight).all()


def test_class_weights_move_the_border() -> None:
    training = table(300, 0)
    counts = []
    for weight in (0.1, 1.0, 10.0):
        head = nn.Linear(20, 3)
        list(fit_head(head, training, training, torch.tensor([weight, 1.0, 1.0]), epochs=1))
        with torch.no_grad():
            counts.append(int((head(training.features).argmax(1) == 0).sum()))
    assert counts == sorted(counts)
    assert counts[0] < counts[2]


def test_many_logits_are_computed_in_parts_between_which_others_have_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    training, validation = table(300, 0), table(200, 1)
    whole, parts = nn.Linear(20, 3), nn.Linear(20, 3)
    pauses: list[int] = []
    [once] = fit_head(whole, training, validation, torch.ones(3), epochs=1)
    monkeypatch.setattr(module, "PART_LOGITS", 3 * 64)
    [again] = fit_head(parts, training, validation, torch.ones(3), epochs=1, pause=lambda: pauses.append(1))
    torch.testing.assert_close(parts.weight, whole.weight, atol=1e-3, rtol=1e-3)
    assert again.loss == pytest.approx(once.loss, abs=1e-5)
    assert again.validation_accuracy == pytest.approx(once.validation_accuracy)
    assert len(pauses) > 50, "one for each of five parts, each time"
