"""What tasks on text share."""

from __future__ import annotations

from abc import ABC

from torch import Tensor

from qat.data.text.batch import TextBatch
from qat.tasks.task import Outputs, Prediction, Task


class TextTask(Task[TextBatch, Outputs, Prediction], ABC):
    """A task whose network takes token ids and masks, each (N, L)."""

    def inputs(self, batch: TextBatch) -> tuple[Tensor, ...]:
        return batch.inputs
