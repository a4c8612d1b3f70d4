"""Depthwise convolutions behind a padding of their own: one kernel call with a wider kernel and symmetric padding.

"Same" padding at stride 2 is asymmetric (TensorFlow's way; timm's `tf_*` models and `pad_type: same`), so the graph pads
first and convolves without padding. FBGEMM's fast depthwise kernels want the padding (K - 1) / 2 of an odd K and fall back to
one that is a hundred times slower. Taps that are zero change no sum, but they change which taps are neighbours (`Framed` in
`layouts.py`):

    P = max(l, k - 1 - l),  K = 2 P + 1,  w'[i + P - l] = w[i],

where l is what was padded in front. The number of outputs is the same where (H - 1) // s == (H + l + r - k) // s, which is
asked when the layer runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from qat.quantization.layouts import frame_of
from qat.quantization.program.program import Int8Program, Node, Ref, leaves


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
    for name in program.results():
        readers[name] = readers.get(name, 0) + 1
    pads = {n.name: n for n in program.nodes if n.op == "aten.pad.default" and n.grid is not None and readers.get(n.name) == 1}
    return {
        node.name: pads[node.args[0].name]
        for node in program.nodes
        if node.op == "int8.conv2d" and node.args[0].name in pads and tuple(node.args[5]) == (0, 0)
    }


def widen(node: Node, pad: Node, weight: Tensor) -> Widened | None:
    """The layer that needs no `pad`; None where it is not depthwise or no fast kernel is wide enough."""
    frame = frame_of(weight, groups=node.args[7], dilation=node.args[6], pads=pad.args[1])
    if frame is None:
        return None
    left, right, top, bottom = pad.args[1]
    return Widened(
        weight=frame.frame(weight).contiguous(),
        padding=frame.size // 2,
        before=(top, left),
        after=(bottom, right),
        kernel=(weight.shape[2], weight.shape[3]),
        stride=(node.args[4][0], node.args[4][1]),
    )
