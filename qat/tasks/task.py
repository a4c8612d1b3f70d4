"""What every task is: a LightningModule that trains whatever `nn.Module` it is given and knows nothing of quantization."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric

from qat.tasks.optimizer import OptimizerFactory


class Task(LightningModule, ABC):
    """Loss, decisions and scores of one kind of problem.

    Args:
        model: the network; float, prepared for QAT, anything with the right outputs.
        optimizer: how its weights move.
    """

    #: Name of the metric that `score` averages to, its unit is points.
    metric: str

    def __init__(self, model: nn.Module, *, optimizer: OptimizerFactory) -> None:
        super().__init__()
        self.model = model
        self._optimizer = optimizer
        self._val_score = MeanMetric()

    @abstractmethod
    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        """The model's inputs in a batch."""

    @abstractmethod
    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Training loss, shape ()."""

    @abstractmethod
    def decide(self, outputs: Any) -> Tensor:
        """One decision per sample, shape (N,)."""

    @abstractmethod
    def score(self, decisions: Tensor, batch: Any) -> Tensor:
        """Points per sample, float32 of shape (N,), 0 to 100; their mean is the task's metric."""

    def forward(self, *inputs: Tensor) -> Any:
        return self.model(*inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(self.model(*self.inputs(batch)), batch)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        outputs = self.model(*self.inputs(batch))
        scores = self.score(self.decide(outputs), batch)
        self._val_score.update(scores)
        self.log("val/loss", self.loss(outputs, batch), batch_size=scores.numel())
        self.log(f"val/{self.metric}", self._val_score, prog_bar=True)

    def configure_optimizers(self) -> Any:
        return self._optimizer.build(self.model, int(self.trainer.estimated_stepping_batches))
