"""Grouped convolutions that FBGEMM's kernels overrun: groups are merged until another kernel takes the layer.

FBGEMM has kernels for 3x3 convolutions with as many outputs as inputs per group, 2 or 4 of them, that take 8 (AVX2) or 16
(AVX-512) channels at a time. Where there are more channels than that and no multiple of it, they read and write behind their
buffers: wrong outputs and a damaged heap (torch 2.15, every number of groups up to 24; groups of 8 and 16 channels are sound).
With f groups merged into one, whose weights between different groups are zero,

    w'[g f o + j o + a, j i + b] = w[g f o + j o + a, b],       j = 0 .. f - 1; a, b: output and input within the group,

the layer has f times the inputs per group and computes the same sums. Neighbours stay neighbours, since 2 and 4 are even.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from qat.quantization.program.program import Node

#: Channels that the kernels take at a time on one machine or another, and the channels per group that they are for.
_VECTORS, _SMALL = (8, 16), (2, 4)


def merge_groups(node: Node, weight: Tensor) -> tuple[Node, Tensor]:
    """A layer that computes the same, and that FBGEMM's kernels do not overrun; the same layer where they do not.

    Args:
        weight: int8, shape (C, I, *kernel).
    """
    if node.op == "int8.linear" or not _overrun(weight, node.args[7]):
        return node, weight
    groups, inputs = node.args[7], weight.shape[1]
    factor = next(f for f in range(2, groups + 1) if groups % f == 0 and inputs * f not in _SMALL)
    merged = torch.zeros(weight.shape[0], inputs * factor, *weight.shape[2:], dtype=weight.dtype)
    group = torch.arange(weight.shape[0]) // inputs % factor  # as many outputs as inputs per group
    for j in range(factor):
        merged[group == j, j * inputs : (j + 1) * inputs] = weight[group == j]
    return replace(node, args=(*node.args[:7], groups // factor)), merged


def _overrun(weight: Tensor, groups: int) -> bool:
    inputs, channels = weight.shape[1], weight.shape[0]
    small = groups > 1 and inputs in _SMALL and channels == groups * inputs and tuple(weight.shape[2:]) == (3, 3)
    return small and channels > min(_VECTORS) and channels % max(_VECTORS) != 0
