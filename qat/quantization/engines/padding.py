"""Depthwise convolutions behind a padding of their own: one kernel call with a wider kernel and symmetric padding.

"Same" padding at stride 2 is asymmetric (TensorFlow's way; timm's `tf_*` models and `pad_type: same`), so the graph pads
first and convolves without padding. FBGEMM's fast depthwise kernels want the padding (K - 1) / 2 of an odd K and fall back to
one that is a hundred times slower. Taps that are zero change no sum:

    P = max(l, k - 1 - l),  K = 2 P + 1,  w'[i + P - l] = w[i],

where l is what was padded in front. The number of outputs is the same where (H - 1) // s == (H + l + r - k) // s, which is
asked when the layer runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qat.quantization.program import Int8Program, Node, Ref, leaves

#: Kernel sizes that FBGEMM has a fast depthwise kernel for, beyond 3.
WIDER = (5, 7)


@dataclass(frozen=True, kw_only=True)
class Widened:
    """A layer that pads by itself.

    Args:
        weight: int8, shape (C, 1, K, K).
        padding: P, on every side.
        before, after: what was padded in front and behind, per dimension (height, width).
        kernel, stride: of the original layer, per dimension.
    """

    weight: Tensor
    padding: int
    before: tuple[int, int]
    after: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]

    def fits(self, height: int, width: int) -> bool:
        """Whether it has as many outputs as padding and layer together, for an input of this size."""
        return all(
            (size - 1) // self.stride[i] == (size + self.before[i] + self.after[i] - self.kernel[i]) // self.stride[i]
            for i, size in enumerate((height, width))
        )


def padded_layers(program: Int8Program) -> dict[str, Node]:
    """Name of a convolution without padding -> the zero padding in front of it, which nothing else reads."""
    readers: dict[str, int] = {}
    for node in program.nodes:
        for leaf in leaves((node.args, tuple(node.kwargs.values()))):
            if isinstance(leaf, Ref):
                readers[leaf.name] = readers.get(leaf.name, 0) + 1
    for leaf in leaves(program.output):
        readers[leaf.name] = readers.get(leaf.name, 0) + 1
    pads = {n.name: n for n in program.nodes if n.op == "aten.pad.default" and n.grid is not None and readers.get(n.name) == 1}
    return {
        node.name: pads[node.args[0].name]
        for node in program.nodes
        if node.op == "int8.conv2d" and node.args[0].name in pads and tuple(node.args[5]) == (0, 0)
    }


def widen(node: Node, pad: Node, weight: Tensor) -> Widened | None:
    """The layer that needs no `pad`; None where it is not depthwise or no fast kernel is wide enough."""
    amounts: Sequence[Any] = pad.args[1]
    groups, dilation = node.args[7], tuple(node.args[6])
    if len(amounts) != 4 or any(not isinstance(n, int) or n < 0 for n in amounts) or dilation != (1, 1):
        return None
    if groups != weight.shape[0] or weight.shape[1] != 1:
        return None
    left, right, top, bottom = amounts
    height, width = weight.shape[2:]
    padding = max(left, width - 1 - left, top, height - 1 - top)
    if 2 * padding + 1 not in WIDER:
        return None
    wide = torch.zeros(weight.shape[0], 1, 2 * padding + 1, 2 * padding + 1, dtype=weight.dtype)
    wide[:, :, padding - top : padding - top + height, padding - left : padding - left + width] = weight
    return Widened(
        weight=wide,
        padding=padding,
        before=(top, left),
        after=(bottom, right),
        kernel=(height, width),
        stride=(node.args[4][0], node.args[4][1]),
    )
