"""What the matrices of models share: one training step, SQNR, what stays float and why."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from qat.quantization.analysis.coverage import Coverage


def pixels(model: nn.Module) -> int:
    """Height and width of the images that a model of timm is built for."""
    stated = model.default_cfg
    assert isinstance(stated, dict)
    return int(stated["input_size"][-1])


def train_step(prepared: nn.Module, loss_of: Callable[[Any], torch.Tensor], inputs: tuple[torch.Tensor, ...]) -> float:
    """One step of SGD; the loss. `RuntimeError` when it changed no weight."""
    optimizer = torch.optim.SGD(prepared.parameters(), lr=1e-3)
    before = [p.detach().clone() for p in prepared.parameters()]
    loss = loss_of(prepared(*inputs))
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(prepared.parameters(), 1.0)
    optimizer.step()
    if all(torch.equal(old, new) for old, new in zip(before, prepared.parameters(), strict=True)):
        raise RuntimeError("a training step changed no weight")
    return round(float(loss), 4)


def sqnr(simulated: torch.Tensor, int8: torch.Tensor) -> float | None:
    """10 log10(signal / difference) in dB; None when they are equal."""
    noise = float((simulated - int8).square().sum())
    return round(10 * math.log10(float(simulated.square().sum()) / noise), 1) if noise > 0 else None


def summary(coverage: Coverage) -> dict[str, str]:
    """Float ops by name: how many, and the first reason."""
    found: dict[str, list[str]] = {}
    for op in coverage.float_ops:
        found.setdefault(op.op.removeprefix("aten.").split(".")[0], []).append(op.reason)
    return {name: f"{len(reasons)}: {reasons[0]}" for name, reasons in sorted(found.items())}
