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
from dataclasses import dataclass

import torch
from torch import Tensor

from qat.errors import QParamsError

ACTIVATION_LOW, ACTIVATION_HIGH = 0, 255
WEIGHT_LOW, WEIGHT_HIGH = -127, 127

#: The smallest scale; keeps a tensor that is constant zero on a legal grid.
MIN_SCALE = float(torch.finfo(torch.float32).eps)

#: Two products u8 x s8 that a kernel adds in 16 bits stay below 2^15 when the two |w| add up to at most 128
#: (255 * 128 = 32640). A hair less than 128, so that rounding cannot reach 129.
PAIR_BOUND = 127.99


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


def weight_scale(weight: Tensor, *, pair_bound: bool = False) -> Tensor:
    """Symmetric scales, one per output channel (axis 0).

    scale_c = short(max |w_c| / 127), and with `pair_bound` at least (|w_c|_1st + |w_c|_2nd) / 127.99, where 1st and 2nd
    are the two largest magnitudes of the channel: then no two quantized weights of a channel add up to more than 128
    and a kernel that adds pairs of products in 16 bits cannot saturate.

    Args:
        weight: shape (C, ...), float32, at least two dimensions.

    Returns:
        float32, shape (C,), >= MIN_SCALE.
    """
    rows = weight.detach().flatten(1)
    magnitudes = rows.abs()
    scale = magnitudes.amax(1) / WEIGHT_HIGH
    if pair_bound and rows.shape[1] > 1:
        scale = torch.maximum(scale, magnitudes.topk(2, dim=1).values.sum(1) / PAIR_BOUND)
    return short_scale(scale.clamp(min=MIN_SCALE))


def quantize_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """q = clamp(round(w / scale_c), -127, 127) as int8, multiplying by 1/scale.

    Args:
        weight: shape (C, ...), float32.
        scale: shape (C,).
    """
    inverse = (1.0 / scale).reshape(-1, *([1] * (weight.dim() - 1)))
    return torch.round(weight.detach() * inverse).clamp(WEIGHT_LOW, WEIGHT_HIGH).to(torch.int8)
