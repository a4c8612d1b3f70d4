"""Grids and the formulas for scale and zero point.

A grid maps 256 (activations) or 255 (weights) integers to real numbers:

    q = clamp(round_half_even(x / scale) + zero_point, low, high)        x' = (q - zero_point) * scale

*Short scales.* Every scale is rounded up to 16 significant bits (a relative change below 2^-15). An 8-bit integer times
a 16-bit significand fits into float32's 24 bits, so `(q - zero_point) * scale` is exact in float32, whatever the order of
operations and with or without fused multiply-add. That is what lets vector loops, scalar tails, different engines and
the simulation in training agree bit for bit on everything that is computed from a dequantized tensor.

Reference: Jacob et al. 2018, arXiv:1712.05877, section 2.1; Nagel et al. 2021, arXiv:2106.08295, section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qat.errors import QParamsError
from qat.quantization.layouts import Layout, pair_sums

ACTIVATION_LOW, ACTIVATION_HIGH = 0, 255
WEIGHT_LOW, WEIGHT_HIGH = -127, 127

#: The smallest scale; keeps a tensor that is constant zero on a legal grid.
MIN_SCALE = float(torch.finfo(torch.float32).eps)

#: The largest |q_a + q_b| of two neighbouring weights whose products fit into 16 bits: 255 * 128 = 32640 < 2^15 < 255 * 129.
PAIR_BOUND = 128


@dataclass(frozen=True, kw_only=True)
class QParams:
    """The grid of one activation: unsigned 8 bit, per tensor, affine.

    Args:
        scale: step of the grid, finite, > 0, at most 16 significant bits.
        zero_point: the integer that stands for 0.0, in [0, 255].
    """

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise QParamsError(f"scale must be finite and positive, got {self.scale}")
        if not isinstance(self.zero_point, int) or not ACTIVATION_LOW <= self.zero_point <= ACTIVATION_HIGH:
            raise QParamsError(f"zero_point must be an integer in [0, 255], got {self.zero_point!r}")
        if float(short_scale(torch.tensor(self.scale))) != self.scale:
            raise QParamsError(f"scale {self.scale!r} has more than 16 significant bits; see short_scale")


def short_scale(scale: Tensor) -> Tensor:
    """Round positive float32 scales of any shape up to 16 significant bits.

    float32 stores 23 bits of significand behind an implicit one; adding 255 to the bit pattern and clearing the lowest
    8 bits rounds up to 15 stored bits (a carry moves into the exponent, which is the right answer).
    """
    bits = scale.to(torch.float32).view(torch.int32)
    return ((bits + 0xFF) & ~0xFF).view(torch.float32)


def reciprocal(scale: float) -> float:
    """1 / scale, rounded to float32: what quantize kernels multiply by."""
    return float(1.0 / torch.tensor(scale, dtype=torch.float32))


def affine_qparams(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the activation grid that covers [low, high] and zero.

    scale = short((max(high, 0) - min(low, 0)) / 255);  zero_point = clamp(round(-min(low, 0) / scale), 0, 255)

    A range that starts at 0 gets zero point 0 exactly, so the lower clamp of the grid *is* a ReLU.

    Args:
        low, high: any one shape, float32, low <= high.

    Returns:
        scale, float32, >= MIN_SCALE, and zero_point, int32, of that shape.
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = short_scale(((high - low) / (ACTIVATION_HIGH - ACTIVATION_LOW)).clamp(min=MIN_SCALE))
    zero_point = torch.round(-low / scale).clamp(ACTIVATION_LOW, ACTIVATION_HIGH).to(torch.int32)
    return scale, zero_point


def weight_scale(weight: Tensor, layouts: Sequence[Layout] = ()) -> Tensor:
    """Symmetric scales, one per output channel (axis 0), on which no pair of products exceeds 16 bits.

    scale_c = short(max(max |w_c| / 127,  max over pairs (a, b) of every layout |w_a + w_b| / 127.99))

    *Proof* that then 255 |q_a| + 255 |q_b| <= 32640 < 2^15 for weights of one sign. With r = 1 / scale and |round(x) - x| <=
    1/2, |q_a| + |q_b| <= (|w_a| + |w_b|) r + 1 <= 127.99 + 1 + e < 129, where e < 0.001 is what float32 loses in the sum, the
    reciprocal and the product. The left side is an integer, so it is at most 128. Weights of opposite sign need nothing: their
    products lie in [-32385, 0] and [0, 32385], and so does their sum. Rounding keeps signs, or gives 0.

    Most channels lose nothing by it: their two largest weights are no neighbours, or of opposite sign.

    Args:
        weight: shape (C, ...), float32, at least two dimensions.
        layouts: the orders in which kernels that add in 16 bits pack this weight; none where no kernel does.

    Returns:
        float32, shape (C,), >= MIN_SCALE.
    """
    weight = weight.detach().to(torch.float32)
    scale = weight.flatten(1).abs().amax(1) / WEIGHT_HIGH
    for layout in layouts:
        scale = torch.maximum(scale, pair_sums(weight, layout) / (PAIR_BOUND - 0.01))
    return short_scale(scale.clamp(min=MIN_SCALE))


def quantize_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """q = clamp(round(w / scale_c), -127, 127) as int8, multiplying by 1/scale.

    Args:
        weight: shape (C, ...), float32.
        scale: shape (C,).
    """
    inverse = (1.0 / scale).reshape(-1, *([1] * (weight.dim() - 1)))
    return torch.round(weight.detach() * inverse).clamp(WEIGHT_LOW, WEIGHT_HIGH).to(torch.int8)
