"""Classification of sentences and pairs of sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.data.text.batch import TextBatch
from qat.evaluation.evaluate import Formula, OfMean
from qat.evaluation.metrics import accuracy, f1, matthews
from qat.tasks.text import TextTask


class TextClassificationTask(TextTask[Tensor, int]):
    """Cross entropy over `TextBatch`es whose targets have shape (N,); accuracy, F1 and Matthews' correlation.

    The network goes from token ids and masks (N, L) to logits (N, len(labels)).

    Args:
        metric: `accuracy`, `f1` (of class 1 of two, else macro) or `matthews`; what counts as the task's metric.
    """

    name = "text_classification"
    reads = "sentences"

    known: ClassVar[Mapping[str, Formula]] = {
        "accuracy": OfMean(accuracy),
        "f1": OfMean(f1),
        "matthews": OfMean(matthews),
    }

    def loss(self, outputs: Tensor, batch: TextBatch) -> Tensor:
        return F.cross_entropy(outputs, batch.targets, label_smoothing=self.label_smoothing)

    def predict(self, outputs: Tensor, batch: TextBatch) -> Sequence[int]:
        predictions: list[int] = outputs.argmax(-1).tolist()
        return predictions

    def statistics(self, predictions: Sequence[int], batch: TextBatch) -> Tensor:
        """A one-hot confusion matrix (target, prediction) per sample, flattened: (N, C * C)."""
        classes = len(self.labels)
        return F.one_hot(batch.targets.cpu() * classes + torch.tensor(predictions), classes * classes).float()
