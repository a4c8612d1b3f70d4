"""Ends the trial of a search whose QAT goes worse than that of earlier trials."""

from __future__ import annotations

from typing import Any

from optuna.study import StudyDirection
from pytorch_lightning import Callback, LightningModule, Trainer

from qat.errors import PrunedError
from qat.ranks import any_rank, leads


class Pruning(Callback):
    """Reports the validation metric after every epoch and ends the training when the study's pruner says so.

    Of the metric more is better. A pruner compares in the direction of its study, so one that minimizes (a drop, say) is told
    the negative.

    Args:
        trial: of Optuna; anything with `report(value, step)`, `should_prune()`, `number` and `study.direction`.
        metric: name under which the task logs it.
    """

    def __init__(self, trial: Any, metric: str) -> None:
        self.trial = trial
        self.metric = metric

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = float(trainer.callback_metrics[self.metric])
        told = False
        if leads():  # of the ranks of a distributed training one reports, and all do what it is told
            sign = -1.0 if self.trial.study.direction is StudyDirection.MINIMIZE else 1.0
            self.trial.report(sign * value, step=trainer.current_epoch)
            told = self.trial.should_prune()
        if any_rank(told):
            raise PrunedError(
                f"trial {self.trial.number} is pruned after epoch {trainer.current_epoch + 1}: {self.metric} {value:.2f}"
            )
