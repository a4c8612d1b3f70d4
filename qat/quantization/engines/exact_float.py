"""Convolutions for which FBGEMM has no fast kernel, in float32 on integers: exact as long as no sum can reach 2^24.

FBGEMM has depthwise kernels for 3 x 3, 5 x 5 and 7 x 7 without dilation; everything else of few channels per group runs through
its general path, 10 to 270 times slower than float (measured: 64 channels, 28 x 28, one thread). A float convolution of the
centred integers has the same sums whatever their order, and the requantization is the reference's, step by step in place.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.quantization.engines.kernels import Function, Kernels
from qat.quantization.program.program import Node
from qat.quantization.qparams import ACTIVATION_HIGH, ACTIVATION_LOW, QParams

#: Sums of integers below this are exact in float32, in any order.
EXACT = 2**24

#: Square kernels that FBGEMM's depthwise code is written for; channels come in eights.
FAST, CHANNELS = ((3, 3), (5, 5), (7, 7)), 8


def is_slow(node: Node, weight: Tensor) -> bool:
    """Whether FBGEMM would take its general path for a layer of few channels per group.

    Args:
        node: an `int8.conv1d` or `int8.conv2d`.
        weight: int8, shape (C, channels per group, *kernel).
    """
    padding, dilation, groups = node.args[5:8]
    kernel = tuple(weight.shape[2:])
    if groups == 1 or weight.shape[1] > 3:
        return False
    if weight.shape[1] > 1:
        return math.prod(kernel) > 9
    centred = tuple(padding) == tuple(k // 2 for k in kernel)
    plain = kernel in FAST and tuple(dilation) == (1, 1) and groups % CHANNELS == 0
    return not (plain and centred)


def exact_layer(node: Node, tensors: list[Tensor | None], grid: QParams, kernels: Kernels) -> Function | None:
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
    exact, centred = weight.to(torch.float32), kernels.centred(grid)
    convolve = F.conv2d if node.op == "int8.conv2d" else F.conv1d

    def run(q: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):  # sums in bfloat16 would not be exact
            y = convolve(centred(q), exact, None, stride, padding, dilation, groups)
        if offset is not None:
            y.add_(offset)
        y = y.mul_(multiplier).round_().add_(out.zero_point).clamp_(ACTIVATION_LOW, ACTIVATION_HIGH).to(torch.uint8)
        if y.dim() == 4:
            y = y.contiguous(memory_format=torch.channels_last)
        return kernels.from_integers(y, out)

    return run
