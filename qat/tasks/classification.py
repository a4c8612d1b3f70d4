"""Image classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.evaluation.evaluate import Formula, mean_score
from qat.tasks.task import Task


class ClassificationTask(Task):
    """Cross entropy and top-1 accuracy over batches of (images, targets).

    Args:
        model: (N, C, H, W) float32 -> logits (N, len(labels)).
    """

    reads = "images"

    known: ClassVar[Mapping[str, Formula]] = {"top1": mean_score}

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
