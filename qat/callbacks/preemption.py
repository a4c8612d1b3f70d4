"""A training that is told to end (SIGTERM) saves where it is, in the middle of an epoch."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException


class Preemption(Callback):
    """Saves a checkpoint when Lightning ends a training because of SIGTERM, which it does between two steps.

    Args:
        folder: of the stage's checkpoints; names sort by epoch and step, so the newest is found there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException):
            trainer.save_checkpoint(self.folder / f"{trainer.current_epoch:04d}-{trainer.global_step:07d}.ckpt")
