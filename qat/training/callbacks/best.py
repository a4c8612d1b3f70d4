"""The weights of the best validation instead of the last ones."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from qat.errors import ConfigError, near
from qat.training.module import TrainingModule


class KeepBest(Callback):
    """After training the network has the weights with which validation was best; they travel in every checkpoint.

    Args:
        monitor: what is compared; None takes the task's metric, of which more is better.
        mode: `max` or `min`, of `monitor`.
    """

    def __init__(self, monitor: str | None = None, mode: str = "max") -> None:
        if mode not in ("max", "min"):
            raise ConfigError(f"callbacks.best.mode={mode}: unknown mode.{near(mode, ('max', 'min'))}")
        self.monitor = monitor
        self.sign = 1.0 if mode == "max" else -1.0
        self.score: float | None = None
        self.weights: dict[str, Tensor] = {}
        self._candidate: dict[str, Tensor] = {}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the weights that were validated; of averaged ones this is the last moment."""
        self._candidate = {name: value.detach().clone() for name, value in _module(pl_module).model.state_dict().items()}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep them if they are better than all before."""
        monitor = self.monitor or f"val/{_module(pl_module).task.metric}"
        if monitor not in trainer.callback_metrics:
            raise ConfigError(f"callbacks.best.monitor={monitor} is not logged.{near(monitor, trainer.callback_metrics)}")
        score = self.sign * float(trainer.callback_metrics[monitor])
        if self.score is None or score > self.score:
            self.score, self.weights = score, self._candidate
        self._candidate = {}

    def state_dict(self) -> dict[str, object]:
        return {"score": self.score, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.score, self.weights = state_dict["score"], state_dict["weights"]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Behind all that others do with the weights at the end."""
        if self.weights:
            with torch.no_grad():
                _module(pl_module).model.load_state_dict(self.weights)


def _module(pl_module: LightningModule) -> TrainingModule:
    assert isinstance(pl_module, TrainingModule)
    return pl_module
