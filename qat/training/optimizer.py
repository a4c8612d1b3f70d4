"""Optimizer and learning-rate schedule from plain values; names come from an allowlist, never from an import path."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.optim._optim_factory import create_optimizer_v2, list_optimizers
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from qat.errors import ConfigError, near

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


@dataclass(frozen=True, kw_only=True)
class OptimizerFactory:
    """Everything that decides how weights move.

    Args:
        name: a key of `OPTIMIZERS`, or `timm` for the optimizer of timm that `arguments` calls `opt`.
        lr: peak learning rate.
        weight_decay: on weights of two or more dimensions; biases and norms have none.
        arguments: further ones of its class.
        warmup: share of the steps in which the rate grows linearly from 0 to `lr`, in [0, 1).
        decay: `cosine` to 0 or `constant`, after warm-up.
    """

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    arguments: Mapping[str, Any] = field(default_factory=dict)
    warmup: float = 0.05
    decay: str = "cosine"

    def __post_init__(self) -> None:
        if self.name not in (*OPTIMIZERS, "timm"):
            raise ConfigError(f"unknown optimizer {self.name!r}.{near(self.name, [*OPTIMIZERS, 'timm'])}")
        if self.name == "timm" and self.arguments.get("opt") not in list_optimizers():
            given = str(self.arguments.get("opt"))
            raise ConfigError(f"timm has no optimizer {given!r}.{near(given, map(str, list_optimizers()))}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f"lr must be positive and finite, got {self.lr}")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup is a share of the steps in [0, 1), got {self.warmup}")
        if self.decay not in ("cosine", "constant"):
            raise ConfigError(f"unknown decay {self.decay!r}.{near(self.decay, ('cosine', 'constant'))}")

    def build(self, model: nn.Module, total_steps: int) -> dict[str, Any]:
        """Optimizer and per-step schedule in Lightning's form."""
        optimizer = self._optimizer(model)
        # Lightning refuses to clip gradients that a fused optimizer unscales itself; without the flag the scaler does it.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        scheduler = LambdaLR(optimizer, lambda step: self.factor(step, total_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _optimizer(self, model: nn.Module) -> Optimizer:
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        try:
            if self.name == "timm":
                return create_optimizer_v2(groups, lr=self.lr, weight_decay=self.weight_decay, **self.arguments)
            # Fused is one pass over the weights: on the CPU a tenth of the time for a table of embeddings.
            fused = {} if self.name == "rmsprop" else {"fused": True}
            return OPTIMIZERS[self.name](groups, lr=self.lr, **fused, **self.arguments)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"optimizer={self.name} does not take {dict(self.arguments)}: {error}") from error

    def factor(self, step: int, total_steps: int) -> float:
        """Share of the peak rate at a 0-based step.

        warm-up: (step + 1) / warmup_steps; then 1, or (1 + cos(pi * progress)) / 2.

        Reference: Loshchilov and Hutter 2017, arXiv:1608.03983 (cosine, one cycle).
        """
        warmup = int(self.warmup * total_steps)
        if step < warmup:
            return (step + 1) / warmup
        if self.decay == "constant":
            return 1.0
        progress = (step - warmup) / max(1, total_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
