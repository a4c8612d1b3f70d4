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
        factor: losses whose mean over the last `settle` steps is above `factor` times that of the first `settle` steps have
            exploded. A model that fits its data starts at next to nothing, where one hard batch is no explosion: the first
            mean counts as `floor` at least.
    """

    def __init__(self, *, factor: float = 20.0, settle: int = 10, floor: float = 0.1) -> None:
        if factor <= 1:
            raise ConfigError(f"divergence factor must be above 1, got {factor}")
        self.factor, self.settle, self.floor = factor, settle, floor
        self.first: list[float] = []
        self.last: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            return
        value = float(loss)
        if not math.isfinite(value):
            self._stop(f"the loss is {value}", trainer)
        if len(self.first) < self.settle:
            self.first.append(value)
            return
        self.last = [*self.last, value][-self.settle :]
        before, now = sum(self.first) / len(self.first), sum(self.last) / len(self.last)
        if now > self.factor * max(before, self.floor):
            self._stop(f"the loss rose to {now:.3g} from {before:.3g}", trainer)

    def _stop(self, what: str, trainer: Trainer) -> None:
        raise DivergedError(
            f"training diverged at step {trainer.global_step}: {what}. Without batch norm to hold it, QAT takes smaller "
            "rates than float training: divide lr by 3 to 10, lengthen warmup, or set gradient_clip_val."
        )

    def state_dict(self) -> dict[str, object]:
        return {"first": self.first, "last": self.last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.first = list(state_dict["first"])
        self.last = list(state_dict.get("last", ()))  # absent in checkpoints of 0.1.0
