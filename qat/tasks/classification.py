"""Image classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.evaluate import mean_score
from qat.tasks.optimizer import OptimizerFactory
from qat.tasks.task import Task, checked_smoothing, chosen


class ClassificationTask(Task):
    """Cross entropy and top-1 accuracy over batches of (images, targets).

    Args:
        model: (N, C, H, W) float32 -> logits (N, len(labels)).
        label_smoothing: in [0, 1).
    """

    reads = "images"

    def __init__(
        self,
        model: nn.Module,
        *,
        labels: Sequence[str],
        optimizer: OptimizerFactory,
        label_smoothing: float = 0.0,
        metric: str | None = None,
    ) -> None:
        super().__init__(model, optimizer=optimizer, formulas=chosen({"top1": mean_score}, metric))
        self.labels = tuple(labels)
        self.label_smoothing = checked_smoothing(label_smoothing)

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        return (batch[0],)

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        return F.cross_entropy(outputs, batch[1], label_smoothing=self.label_smoothing)

    def decide(self, outputs: Any, batch: Any) -> Sequence[Any]:
        decisions: list[int] = outputs.argmax(-1).tolist()
        return decisions

    def statistics(self, decisions: Sequence[Any], batch: Any) -> Tensor:
        right: Tensor = torch.tensor(decisions) == batch[1].cpu()
        return 100.0 * right.float().unsqueeze(1)
