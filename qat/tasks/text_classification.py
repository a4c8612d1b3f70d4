"""Classification of sentences and pairs of sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.evaluation.evaluate import Formula, OfMean
from qat.evaluation.metrics import accuracy, f1, matthews
from qat.tasks.task import Task


class TextClassificationTask(Task):
    """Cross entropy over `TextBatch`es whose targets have shape (N,); accuracy, F1 and Matthews' correlation.

    Args:
        model: token ids and masks (N, L) -> logits (N, len(labels)).
        metric: `accuracy`, `f1` (of class 1 of two, else macro) or `matthews`; what counts as the task's metric.
    """

    reads = "sentences"

    known: ClassVar[Mapping[str, Formula]] = {
        "accuracy": OfMean(accuracy),
        "f1": OfMean(f1),
        "matthews": OfMean(matthews),
    }

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        return F.cross_entropy(outputs, batch.targets, label_smoothing=self.label_smoothing)

    def decide(self, outputs: Any, batch: Any) -> Sequence[Any]:
        decisions: list[int] = outputs.argmax(-1).tolist()
        return decisions

    def statistics(self, decisions: Sequence[Any], batch: Any) -> Tensor:
        """A one-hot confusion matrix (target, decision) per sample, flattened: (N, C * C)."""
        classes = len(self.labels)
        return F.one_hot(batch.targets.cpu() * classes + torch.tensor(decisions), classes * classes).float()
