from __future__ import annotations

import pytest
import torch

from qat.evaluation.evaluate import OfMean
from qat.evaluation.metrics import entity_f1
from qat.training.running_metric import RunningMetric


def test_running_metric_is_the_formula_over_all_batches() -> None:
    """Not the mean over batches: F1 of sums is not the mean of F1."""
    batches = [torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 3.0]]), torch.tensor([[4.0, 4.0, 5.0]])]
    metric = RunningMetric(OfMean(entity_f1))
    for batch in batches:
        metric.update(batch)
    assert float(metric.compute()) == pytest.approx(float(entity_f1(torch.cat(batches).sum(0))))
    metric.reset()
    metric.update(batches[1])
    assert float(metric.compute()) == pytest.approx(100 * 8 / 9)
