"""Image classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.data.images.dataset import ImageBatch
from qat.evaluation.evaluate import Formula, mean_score
from qat.tasks.task import Task


class ClassificationTask(Task[ImageBatch, Tensor, int]):
    """Cross entropy and top-1 accuracy over batches of (images, targets).

    The network goes from images (N, C, H, W) float32 to logits (N, len(labels)).
    """

    name = "classification"
    reads = "images"

    known: ClassVar[Mapping[str, Formula]] = {"top1": mean_score}

    def inputs(self, batch: ImageBatch) -> tuple[Tensor, ...]:
        return (batch[0],)

    def loss(self, outputs: Tensor, batch: ImageBatch) -> Tensor:
        return F.cross_entropy(outputs, batch[1], label_smoothing=self.label_smoothing)

    def predict(self, outputs: Tensor, batch: ImageBatch) -> Sequence[int]:
        predictions: list[int] = outputs.argmax(-1).tolist()
        return predictions

    def statistics(self, predictions: Sequence[int], batch: ImageBatch) -> Tensor:
        right: Tensor = torch.tensor(predictions) == batch[1].cpu()
        return 100.0 * right.float().unsqueeze(1)
