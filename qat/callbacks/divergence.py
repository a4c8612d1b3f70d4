"""Stops a training whose loss is no longer a number, at once and with advice."""

from __future__ import annotations

import math
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from qat.errors import ConfigError, DivergedError


class DivergenceGuard(Callback):
    """Raises `DivergedError` for a NaN, infinite or exploding loss.

    Args:
        factor: a loss above `factor` times the mean of the first `settle` losses has exploded.
    """

    def __init__(self, *, factor: float = 20.0, settle: int = 10) -> None:
        if factor <= 1:
            raise ConfigError(f"divergence factor must be above 1, got {factor}")
        self.factor, self.settle = factor, settle
        self.first: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            return
        value = float(loss)
        if not math.isfinite(value):
            self._stop(f"the loss is {value}", trainer)
        if len(self.first) < self.settle:
            self.first.append(value)
        elif value > self.factor * max(sum(self.first) / len(self.first), 1e-3):
            self._stop(f"the loss rose to {value:.3g} from {sum(self.first) / len(self.first):.3g}", trainer)

    def _stop(self, what: str, trainer: Trainer) -> None:
        raise DivergedError(
            f"training diverged at step {trainer.global_step}: {what}. Without batch norm to hold it, QAT takes smaller "
            "rates than float training: divide lr by 3 to 10, lengthen warmup, or set trainer.gradient_clip."
        )

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.first = list(state_dict["first"])
