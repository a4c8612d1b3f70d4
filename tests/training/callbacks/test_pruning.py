from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from optuna.study import StudyDirection

from qat.errors import PrunedError
from qat.training.callbacks.pruning import Pruning


class Trial:
    """Stands in for Optuna's: prunes after the epoch that it is told."""

    number = 7

    def __init__(self, prune_at: int | None, direction: StudyDirection = StudyDirection.MAXIMIZE) -> None:
        self.prune_at = prune_at
        self.study = SimpleNamespace(direction=direction)
        self.reported: dict[int, float] = {}

    def report(self, value: float, step: int) -> None:
        self.reported[step] = value

    def should_prune(self) -> bool:
        return self.prune_at is not None and max(self.reported) >= self.prune_at


def _validate(trial: Trial, values: Sequence[float]) -> None:
    """Show the callback what Lightning would, epoch after epoch."""
    callback = Pruning(trial, "val/top1")
    for epoch, value in enumerate(values):
        metrics = {"val/top1": value, "val/loss": -1.0}
        trainer = cast(Any, SimpleNamespace(current_epoch=epoch, callback_metrics=metrics))
        callback.on_validation_end(trainer, cast(Any, None))


def test_metric_of_every_epoch_is_reported() -> None:
    trial = Trial(prune_at=None)
    _validate(trial, [10.0, 30.0, 20.0])
    assert trial.reported == {0: 10.0, 1: 30.0, 2: 20.0}


def test_study_that_minimizes_is_told_the_negative() -> None:
    """So that what is worse for the metric is worse for the pruner."""
    trial = Trial(prune_at=None, direction=StudyDirection.MINIMIZE)
    _validate(trial, [10.0, 30.0])
    assert trial.reported == {0: -10.0, 1: -30.0}


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_training_ends_exactly_when_the_study_says_so(epoch: int) -> None:
    trial = Trial(prune_at=epoch)
    with pytest.raises(PrunedError, match=rf"trial 7 is pruned after epoch {epoch + 1}: val/top1 {epoch + 1}0\.00") as caught:
        _validate(trial, [10.0, 20.0, 30.0, 40.0])
    assert list(trial.reported) == list(range(epoch + 1))
    assert caught.value.exit_code == PrunedError.exit_code
