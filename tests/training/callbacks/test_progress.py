from __future__ import annotations

from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from qat.training.callbacks.progress import StageProgress


def trainer(**changes: Any) -> Any:
    values = {"estimated_stepping_batches": 20, "max_epochs": 12, "current_epoch": 2, "global_step": 5, "callback_metrics": {}}
    return SimpleNamespace(**{**values, **changes})


@pytest.fixture
def shown() -> StageProgress:
    return StageProgress("QAT", Console(file=StringIO(), force_terminal=True, width=160, color_system=None), "val/top1")


def text(progress: StageProgress) -> str:
    """The last state of the line."""
    file = progress.bar.console.file
    assert isinstance(file, StringIO)
    progress.bar.refresh()
    return next(line for line in reversed(file.getvalue().replace("\r", "\n").splitlines()) if "QAT" in line)


def test_line_says_stage_epoch_steps_time_left_loss_and_metric(shown: StageProgress) -> None:
    metrics = {"train/loss": torch.tensor(0.25), "val/top1": torch.tensor(97.5), "val/loss": torch.tensor(3.0)}
    shown.on_train_start(trainer(), None)  # type: ignore[arg-type]
    shown.on_train_batch_end(trainer(callback_metrics=metrics, global_step=6))
    line = text(shown)
    for words in ("QAT epoch  3/12", "6/20", "left", "loss 0.25", "top1 97.5"):
        assert words in line, line
    shown.on_validation_start(trainer(callback_metrics=metrics), None)  # type: ignore[arg-type]
    assert "QAT valid  3/12" in text(shown)
    shown.on_validation_end(trainer(), None)  # type: ignore[arg-type]
    assert "QAT epoch  3/12" in text(shown)
    shown.on_train_end(trainer(current_epoch=12, global_step=20), None)  # type: ignore[arg-type]
    assert "QAT epoch 12/12" in text(shown)
    assert "taken" in text(shown)
    assert "20/20" in text(shown)
    assert shown.bar.live.is_started is False


def test_resumed_stage_starts_where_it_was(shown: StageProgress) -> None:
    shown.on_train_start(trainer(global_step=15), None)  # type: ignore[arg-type]
    assert "15/20" in text(shown)
    shown.on_exception(trainer(), None, ValueError())  # type: ignore[arg-type]
    assert shown.bar.live.is_started is False, "an error message needs the terminal"


def test_error_before_the_first_step_is_no_second_error(shown: StageProgress) -> None:
    shown.on_validation_start(trainer(), None)  # type: ignore[arg-type]
    shown.on_exception(trainer(), None, ValueError())  # type: ignore[arg-type]
    assert shown.task is None


def test_nothing_but_the_end_of_the_line_is_cut_in_80_columns() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=80, color_system=None)
    progress = StageProgress("FP32", console, "val/accuracy")
    metrics = {"train/loss": torch.tensor(0.0026514), "val/accuracy": torch.tensor(94.874)}
    long = trainer(estimated_stepping_batches=12888, global_step=11288, callback_metrics=metrics)
    progress.on_train_start(long, None)  # type: ignore[arg-type]
    progress.bar.refresh()
    assert isinstance(console.file, StringIO)
    line = console.file.getvalue().replace("\r", "\n").splitlines()[-1]
    for words in ("FP32 epoch  3/12", "11288/12888", "left", "loss 0.002651"):
        assert words in line, line
    progress.on_exception(long, None, ValueError())  # type: ignore[arg-type]
