"""The LightningModule of every training: any network, any task, any optimizer."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningModule
from torch import Tensor, nn

from qat.tasks.task import AnyTask
from qat.training.optimizer import OptimizerFactory
from qat.training.running_metric import RunningMetric


class TrainingModule(LightningModule):
    """Trains `network` on the task's loss and validates it by the task's metric; knows nothing of quantization.

    Args:
        network: float, prepared for QAT, anything with outputs that the task reads; trained in place.
        task: what is to be learned.
        optimizer: how the weights move.
    """

    def __init__(self, network: nn.Module, task: AnyTask, optimizer: OptimizerFactory) -> None:
        super().__init__()
        self.model = network  # checkpoints name its tensors `model. ...`
        self.task = task
        self._optimizer = optimizer
        self._validated = RunningMetric(task.formulas[task.metric])

    def training_step(self, batch: object, batch_idx: int) -> Tensor:
        loss = self.task.training_loss(self.model, batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(self.task.inputs(batch)[0]))
        return loss

    def validation_step(self, batch: object, batch_idx: int) -> None:
        outputs = self.model(*self.task.inputs(batch))
        statistics = self.task.statistics(self.task.predict(outputs, batch), batch)
        self._validated.update(statistics.to(self.device))
        self.log("val/loss", self.task.loss(outputs, batch), batch_size=len(statistics), sync_dist=True)
        self.log(f"val/{self.task.metric}", self._validated, prog_bar=True, batch_size=len(statistics))

    def configure_optimizers(self) -> Any:
        return self._optimizer.build(self.model, int(self.trainer.estimated_stepping_batches))
