"""A training that is told to end (SIGTERM) saves where it is, in the middle of an epoch."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException

from qat.ranks import any_rank, together


class Preemption(Callback):
    """Saves a checkpoint when Lightning ends a training because of SIGTERM, which it does between two steps.

    The ranks of a distributed training agree after every step whether one of them was told, so that all end behind the same
    step. (Lightning's own handler talks to the other ranks from within the signal, wherever in a step they are.)

    Args:
        folder: of the stage's checkpoints; names sort by epoch and step, so the newest is found there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if together() and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._tell)  # Lightning puts the former handler back when it is done

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if together() and any_rank(self.told):
            trainer._signal_connector.received_sigterm = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException):
            trainer.save_checkpoint(self.folder / f"{trainer.current_epoch:04d}-{trainer.global_step:07d}.ckpt")

    def _tell(self, *_: Any) -> None:
        self.told = True
