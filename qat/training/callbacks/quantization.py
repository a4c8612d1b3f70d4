"""Drives a QAT schedule during training."""

from __future__ import annotations

from pytorch_lightning import Callback, LightningModule, Trainer

from qat.quantization.prepared import PreparedModel
from qat.quantization.schedule import QATSchedule


class ScheduleCallback(Callback):
    """Sets the switches of a prepared model before every step; in validation, as in every evaluation, observers rest.

    The switches depend on the step alone, so a resumed run is where the interrupted one was.
    """

    def __init__(self, prepared: PreparedModel, schedule: QATSchedule) -> None:
        self.prepared = prepared
        self.schedule = schedule

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lightning leaves modules in the mode in which it gets them, and a prepared model has that of the model."""
        self.prepared.train()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        total = int(trainer.estimated_stepping_batches)
        self.schedule.apply_(self.prepared, step=trainer.global_step, total_steps=total)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.prepared.set_observing_(False)
        self.prepared.set_quantizing_(True)
