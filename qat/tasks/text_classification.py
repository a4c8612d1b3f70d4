"""Classification of sentences and pairs of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.tasks.formulas import accuracy, f1, matthews
from qat.tasks.optimizer import OptimizerFactory
from qat.tasks.task import Task, checked_smoothing, chosen


class TextClassificationTask(Task):
    """Cross entropy over `TextBatch`es whose targets have shape (N,); accuracy, F1 and Matthews' correlation.

    Args:
        model: token ids and masks (N, L) -> logits (N, len(labels)).
        label_smoothing: in [0, 1).
        metric: `accuracy`, `f1` (of class 1 of two, else macro) or `matthews`; what counts as the task's metric.
    """

    reads = "sentences"

    def __init__(
        self,
        model: nn.Module,
        *,
        labels: Sequence[str],
        optimizer: OptimizerFactory,
        label_smoothing: float = 0.0,
        metric: str | None = None,
    ) -> None:
        formulas = chosen({"accuracy": accuracy, "f1": f1, "matthews": matthews}, metric)
        super().__init__(model, optimizer=optimizer, formulas=formulas)
        self.labels = tuple(labels)
        self.label_smoothing = checked_smoothing(label_smoothing)

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        inputs: tuple[Tensor, ...] = batch.inputs
        return inputs

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        return F.cross_entropy(outputs, batch.targets, label_smoothing=self.label_smoothing)

    def decide(self, outputs: Any, batch: Any) -> Sequence[Any]:
        decisions: list[int] = outputs.argmax(-1).tolist()
        return decisions

    def statistics(self, decisions: Sequence[Any], batch: Any) -> Tensor:
        """A one-hot confusion matrix (target, decision) per sample, flattened: (N, C * C)."""
        classes = len(self.labels)
        return F.one_hot(batch.targets.cpu() * classes + torch.tensor(decisions), classes * classes).float()
