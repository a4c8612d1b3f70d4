"""A run that is told to end (SIGTERM) ends at once, and in a training behind the step at work, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException

from qat.errors import PreemptedError
from qat.ranks import any_rank, together


@contextmanager
def ends_when_told(output: Path) -> Iterator[None]:
    """Within this block SIGTERM raises `PreemptedError`, so that files are closed and the run folder is given back.

    Ranks of a distributed training leave that to torchrun: waiting for one another they cannot listen.
    """
    if together() or threading.current_thread() is not threading.main_thread():
        yield
        return

    def tell(*_: object) -> None:
        raise PreemptedError(f"told to end (SIGTERM) between two trainings; continue with resume=true output={output}")

    before = signal.signal(signal.SIGTERM, tell)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Preemption(Callback):
    """Lets a training that gets SIGTERM end behind the step at work, with a checkpoint.

    The ranks of a distributed training agree after every step whether one of them was told, so that all end behind the same
    one. (Lightning's own handler talks to the other ranks from within the signal, wherever in a step they are.)

    Args:
        folder: of the stage's checkpoints; names sort by epoch and step, so the newest is found there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.told = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._tell)  # Lightning puts the former handler back when it is done

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if any_rank(self.told):  # what Lightning looks at when the step is complete
            trainer._signal_connector.received_sigterm = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException):
            trainer.save_checkpoint(self.folder / f"{trainer.current_epoch:04d}-{trainer.global_step:07d}.ckpt")

    def _tell(self, *_: object) -> None:
        self.told = True
