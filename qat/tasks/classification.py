"""Image classification."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from qat.errors import ConfigError
from qat.tasks.optimizer import OptimizerFactory
from qat.tasks.task import Task


class ClassificationTask(Task):
    """Cross entropy and top-1 accuracy over batches of (images, targets).

    Args:
        model: (N, C, H, W) float32 -> logits (N, num_classes).
        label_smoothing: in [0, 1).
    """

    metric = "top1"

    def __init__(
        self, model: nn.Module, *, num_classes: int, optimizer: OptimizerFactory, label_smoothing: float = 0.0
    ) -> None:
        super().__init__(model, optimizer=optimizer)
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        return (batch[0],)

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        return F.cross_entropy(outputs, batch[1], label_smoothing=self.label_smoothing)

    def decide(self, outputs: Any) -> Tensor:
        decisions: Tensor = outputs.argmax(-1)
        return decisions

    def score(self, decisions: Tensor, batch: Any) -> Tensor:
        targets: Tensor = batch[1]
        return 100.0 * (decisions == targets).float()
