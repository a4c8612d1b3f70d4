"""A metric over the batches of a validation epoch, in every process of a distributed run."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from qat.evaluation.evaluate import Formula


class RunningMetric(Metric):
    """A formula of the statistics of all samples; see `qat.evaluation.evaluate`."""

    full_state_update = False
    rows: list[Tensor]

    def __init__(self, formula: Formula) -> None:
        super().__init__()
        self.formula = formula
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, statistics: Tensor) -> None:
        self.rows.append(statistics)

    def compute(self) -> Tensor:
        rows = dim_zero_cat(self.rows).double().cpu()
        return self.formula(rows, torch.ones(1, len(rows), dtype=torch.float64))[0]
