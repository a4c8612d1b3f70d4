"""A metric over the batches of a validation epoch, in every process of a distributed run."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from qat.evaluate import Formula


class RunningMetric(Metric):
    """formula(sum of statistics / number of samples); see `qat.evaluate`."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, formula: Formula) -> None:
        super().__init__()
        self.formula = formula
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, statistics: Tensor) -> None:
        self.total = self.total + statistics.double().sum(0)
        self.count = self.count + len(statistics)

    def compute(self) -> Tensor:
        return self.formula(self.total / self.count)
