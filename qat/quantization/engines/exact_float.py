"""Convolutions for which FBGEMM has no fast kernel, in float32 on integers: exact as long as no sum can reach 2^24.

FBGEMM has depthwise kernels for 3 x 3, 5 x 5 and 7 x 7 without dilation; everything else of few channels per group runs through
its general path, 10 to 270 times slower than float (measured: 64 channels, 28 x 28, one thread; docs/kernel_sweep.md). A float
convolution of the centred integers has the same sums whatever their order, and the requantization is the reference's.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.quantization.engines.kernels import Function
from qat.quantization.engines.native import NativeKernels
from qat.quantization.program.program import Node
from qat.quantization.qparams import ACTIVATION_HIGH, QParams

#: Sums of integers below this are exact in float32, in any order.
EXACT = 2**24

#: Square kernels that FBGEMM's depthwise code is written for; channels come in eights.
FAST, CHANNELS = ((3, 3), (5, 5), (7, 7)), 8

#: Channels per group up to which float is faster.
FEW = 16

#: oneDNN's dilated depthwise kernels end here; beyond it is twice as fast in the contiguous layout.
WIDE = 5


def is_slow(node: Node, weight: Tensor) -> bool:
    """Whether FBGEMM would take its general path for a layer of few channels per group.

    Args:
        node: an `int8.conv1d` or `int8.conv2d`.
        weight: int8, shape (C, channels per group, *kernel).
    """
    padding, dilation, groups = node.args[5:8]
    kernel = tuple(weight.shape[2:])
    if groups == 1 or weight.shape[1] > FEW:
        return False
    if weight.shape[1] > 1:
        return weight.shape[1] <= 3 or math.prod(kernel) > 9
    centred = tuple(padding) == tuple(k // 2 for k in kernel)
    plain = kernel in FAST and tuple(dilation) == (1, 1) and groups % CHANNELS == 0
    return not (plain and centred)


def exact_layer(node: Node, tensors: list[Tensor | None], grid: QParams, kernels: NativeKernels) -> Function | None:
    """The layer on an engine's integers, equal to `reference` bit for bit; None where a sum might not be exact.

    Args:
        tensors: int8 weight, its scale, bias.
        grid: of the input.
        kernels: of the engine.
    """
    weight, weight_scale, bias = tensors
    assert weight is not None
    assert weight_scale is not None
    assert node.grid is not None
    if ACTIVATION_HIGH * int(weight.flatten(1).to(torch.int64).abs().sum(1).max()) >= EXACT:
        return None
    stride, padding, dilation, groups = node.args[4:8]
    out, shape = node.grid, (-1, *([1] * (weight.dim() - 2)))
    scale = (weight_scale * torch.tensor(grid.scale, dtype=torch.float32)).reshape(shape)
    multiplier = scale / torch.tensor(out.scale, dtype=torch.float32)
    offset = bias.reshape(shape) / scale if bias is not None else None
    exact, centred, requantize = weight.to(torch.float32), kernels.centred(grid), kernels.rounded(out)
    convolve = F.conv2d if node.op == "int8.conv2d" else F.conv1d
    plain_layout = max(dilation) > 1 and max(weight.shape[2:]) > WIDE
    scaling = exact.flatten().reshape(shape) if _only_scales(node, weight) else None

    def run(q: Tensor) -> Tensor:
        x = centred(q)
        if scaling is not None:
            y = x.mul_(scaling)
        else:
            with torch.autocast("cpu", enabled=False):  # sums in bfloat16 would not be exact
                y = convolve(x.contiguous() if plain_layout else x, exact, None, stride, padding, dilation, groups)
        if offset is not None:
            y.add_(offset)
        result: Tensor = requantize(y.mul_(multiplier))
        return result

    return run


def _only_scales(node: Node, weight: Tensor) -> bool:
    """Whether a depthwise layer of one tap is a factor per channel."""
    stride, padding, _, groups = node.args[4:8]
    one_tap = weight.numel() == groups == weight.shape[0]
    return bool(one_tap and max(stride) == 1 and max(padding) == 0)
