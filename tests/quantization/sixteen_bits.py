"""What kernels built on `vpmaddubsw` compute, emulated: neighbouring products are added and clamped in 16 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from qat.quantization.layouts import Layout


def saturating_sum(x: Tensor, weight: Tensor, layout: Layout) -> Tensor:
    """sum over pairs of clamp(x_a w_a + x_b w_b), in 16 bits each, in integers.

    Args:
        x: in [0, 255], shape (N, I, *kernel): what stands under the kernel for N output pixels.
        weight: in [-127, 127], shape (C, I, *kernel).

    Returns:
        int64, shape (N, C).
    """
    xs, ws = layout.rows(x.long()), layout.rows(weight.long())
    products = xs[:, None] * ws[None]
    pairs = products[..., 0::2] + products[..., 1::2]
    return pairs.clamp(-(2**15), 2**15 - 1).sum(-1)


def exact_sum(x: Tensor, weight: Tensor) -> Tensor:
    """The same without clamping."""
    return torch.einsum("nk,ck->nc", x.flatten(1).long(), weight.flatten(1).long())
