"""Formulas from sums of statistics against libraries that see every prediction."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_f1_score,
    multiclass_matthews_corrcoef,
)

from qat.evaluation.metrics import accuracy, entity_f1, entity_precision, entity_recall, f1, matthews


def _mean_confusion(predicted: torch.Tensor, targets: torch.Tensor, classes: int) -> torch.Tensor:
    return F.one_hot(targets * classes + predicted, classes * classes).double().mean(0)


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_formulas_of_the_confusion_matrix_equal_torchmetrics(classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (200,), generator=generator)
    noise = torch.randint(classes, (200,), generator=generator)
    predicted = torch.where(torch.rand(200, generator=generator) < 0.7, targets, noise)
    means = _mean_confusion(predicted, targets, classes)
    micro = multiclass_accuracy(predicted, targets, classes, average="micro")
    assert float(accuracy(means)) == pytest.approx(100 * float(micro), abs=1e-4)
    scores = multiclass_f1_score(predicted, targets, classes, average="none")
    expected = scores[1] if classes == 2 else scores.mean()
    assert float(f1(means)) == pytest.approx(100 * float(expected), abs=1e-4)
    assert float(matthews(means)) == pytest.approx(
        100 * float(multiclass_matthews_corrcoef(predicted, targets, classes)), abs=1e-4
    )


@pytest.mark.parametrize(("predicted", "targets"), [([0, 0, 0], [0, 1, 1]), ([1, 1, 1], [1, 1, 1]), ([0, 0], [0, 0])])
def test_empty_denominators_give_zero(predicted: list[int], targets: list[int]) -> None:
    means = _mean_confusion(torch.tensor(predicted), torch.tensor(targets), 2)
    assert float(matthews(means)) == 0
    assert float(f1(means)) == (100.0 if targets == [1, 1, 1] else 0.0)


def test_formulas_work_on_many_resamples_at_once() -> None:
    means = torch.rand(5, 7, 9, dtype=torch.float64)
    for formula in (accuracy, f1, matthews):
        together = formula(means)
        assert together.shape == (5, 7)
        assert float(together[2, 3]) == pytest.approx(float(formula(means[2, 3])))


def test_entity_scores_are_ratios_of_counts() -> None:
    counts = torch.tensor([6.0, 8.0, 12.0])
    assert float(entity_precision(counts)) == pytest.approx(75.0)
    assert float(entity_recall(counts)) == pytest.approx(50.0)
    assert float(entity_f1(counts)) == pytest.approx(60.0)
    assert float(entity_f1(torch.zeros(3))) == 0
