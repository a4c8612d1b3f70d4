"""Averaged weights, exponentially: Lightning's callback, for prepared networks as well and for runs that are continued."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from qat.errors import ConfigError
from qat.quantization.prepared import PreparedModel


class EMA(WeightAveraging):
    """At the end and in validation the weights are their exponential moving average.

        w_average <- d(t) w_average + (1 - d(t)) w   after every step t,   d(t) = min(decay, (1 + t) / (10 + t))

    The average of a short training would be its first weights, if all steps weighed alike: d(t) begins small and is `decay`
    after 10 / (1 - decay) steps.

    Statistics of batch norms are averaged with them. Ranges of a prepared network are taken as they are: an average of zero
    points is no zero point.

    Args:
        decay: in [0, 1).

    Reference: Tarvainen and Valpola 2017, arXiv:1703.01780, section 2; the beginning as in TensorFlow's
    `ExponentialMovingAverage(num_updates)`.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"callbacks.ema.decay={decay} must lie in [0, 1)")
        super().__init__(multi_avg_fn=_moving_average(decay))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._use_buffers = not isinstance(pl_module.model, PreparedModel)
        super().setup(trainer, pl_module, stage)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing yet: the last checkpoint shall hold both, the average and what it is of."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the average; also where a finished training was only loaded again."""
        self._copy_average_to_current(pl_module)


def decay_at(step: int, decay: float) -> float:
    """How much the average counts behind so many steps."""
    return min(decay, (1 + step) / (10 + step))


def _moving_average(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    def update_(averages: list[Tensor], weights: list[Tensor], steps: Tensor) -> None:
        new = 1 - decay_at(int(steps), decay)
        with torch.no_grad():
            if averages[0].is_floating_point():
                torch._foreach_lerp_(averages, weights, new)
            else:  # counters of batch norms
                for average, weight in zip(averages, weights, strict=True):
                    average.copy_(weight)

    return update_
