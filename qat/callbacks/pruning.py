"""Ends the trial of a search whose QAT goes worse than that of earlier trials."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from qat.errors import PrunedError


class Pruning(Callback):
    """Reports the validation metric after every epoch and ends the training when the study's pruner says so.

    Args:
        trial: of Optuna; anything with `report(value, step)`, `should_prune()` and `number`.
        metric: name under which the task logs it.
    """

    def __init__(self, trial: Any, metric: str) -> None:
        self.trial = trial
        self.metric = metric

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = float(trainer.callback_metrics[self.metric])
        self.trial.report(value, step=trainer.current_epoch)
        if self.trial.should_prune():
            raise PrunedError(
                f"trial {self.trial.number} is pruned after epoch {trainer.current_epoch + 1}: {self.metric} {value:.2f}"
            )
