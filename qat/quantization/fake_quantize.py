"""Fake quantization: round to the INT8 grid, return float, let the gradient through.

x' = (clamp(round(x / scale) + zero_point, low, high) - zero_point) * scale;   dx'/dx = 1 inside the clamp, 0 outside.

The arithmetic is PyTorch's own `fake_quantize_per_*_affine` kernel, which multiplies by 1/scale and rounds half to even,
as its INT8 quantize kernel does; qparams, ranges and switches are ours.

Reference: Jacob et al. 2018, arXiv:1712.05877, section 3; Bengio et al. 2013, arXiv:1308.3432 (straight-through).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qat.errors import CalibrationError
from qat.quantization.observer import Observer
from qat.quantization.qparams import (
    ACTIVATION_HIGH,
    ACTIVATION_LOW,
    WEIGHT_HIGH,
    WEIGHT_LOW,
    QParams,
    affine_qparams,
    quantize_weight,
    weight_scale,
)


class FakeQuantize(nn.Module):
    """Fake quantization of one activation, with the observer that finds its range.

    Two switches say what a forward pass does: `observing` updates the range, `quantizing` rounds. They are plain bools (no
    device synchronisation in the hot path) that travel in the state dict, so a resumed run stands where it stopped.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self.observer = observer
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("zero_point", torch.tensor(0, dtype=torch.int32))
        self.observing = True
        self.quantizing = True

    def forward(self, x: Tensor) -> Tensor:
        if self.observing:
            self.observer.observe(x.detach())
            self.refresh_()
        if not self.quantizing:
            return x
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, ACTIVATION_LOW, ACTIVATION_HIGH)

    def refresh_(self) -> None:
        """Recompute scale and zero point from the observer's range."""
        scale, zero_point = affine_qparams(*self.observer.range())
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)

    def qparams(self) -> QParams:
        """The grid as plain numbers; `CalibrationError` when no finite range was observed."""
        low, high = (float(value) for value in self.observer.range())
        if low > high:
            raise CalibrationError("no batch was observed; run calibrate (or train) before convert")
        if not (torch.isfinite(self.scale) and abs(low) < torch.inf and abs(high) < torch.inf):
            raise CalibrationError(f"the observed range [{low}, {high}] is not finite; look for NaN in data or weights")
        return QParams(scale=float(self.scale), zero_point=int(self.zero_point))

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.observing, self.quantizing], dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        self.observing, self.quantizing = (bool(value) for value in state)


class WeightFakeQuantize(nn.Module):
    """Fake quantization of one weight: symmetric, per output channel, scale from the live weight at every step.

    Args:
        pair_bound: keep the two largest quantized |w| of a channel at or below 128 together, for kernels that add two
            products in 16 bits (see `qparams.weight_scale`).
    """

    def __init__(self, *, pair_bound: bool) -> None:
        super().__init__()
        self.pair_bound = pair_bound
        self.quantizing = True

    def forward(self, weight: Tensor) -> Tensor:
        if not self.quantizing:
            return weight
        scale = weight_scale(weight, pair_bound=self.pair_bound)
        zeros = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, WEIGHT_LOW, WEIGHT_HIGH)

    def quantize(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The int8 weight of shape (C, ...) and its scales of shape (C,), the very ones that `forward` simulates."""
        scale = weight_scale(weight, pair_bound=self.pair_bound)
        return quantize_weight(weight, scale), scale

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.quantizing], dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        self.quantizing = bool(state[0])
