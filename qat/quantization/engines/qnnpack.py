"""The QNNPACK engine: ARM phones and boards; it runs, with the same results, on x86 too.

Its fixed-point requantization may differ from `reference` by one step. It never saturates in 16 bits.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from qat.quantization.engines.kernels import Function, Kernels
from qat.quantization.engines.native import NativeKernels, quantized_engine
from qat.quantization.engines.native_engine import NativeEngine
from qat.quantization.program.program import Int8Program, Node
from qat.quantization.qparams import QParams


class _QnnpackKernels(NativeKernels):
    def running(self) -> AbstractContextManager[None]:
        """Some kernels ask which engine is selected when they run."""
        return quantized_engine("qnnpack")

    def layer(self, node: Node, tensors: list[Tensor | None], grid: QParams) -> Function:
        weight, scale, bias = tensors
        assert weight is not None
        assert scale is not None
        if bias is not None:
            weight, scale = room_for_bias(weight, scale, bias, grid.scale)
        return super().layer(node, [weight, scale, bias], grid)

    def padded_layer(self, node: Node, pad: Node, tensors: list[Tensor | None], grid: QParams) -> Function | None:
        """Its depthwise kernels take any padding."""
        return None

    def add(self, a: QParams, b: QParams, out: QParams) -> Function:
        """QNNPACK's add takes scale ratios in [2^-14, 2^8) only; outside, dequantize, add and quantize are used."""
        if all(2**-14 <= grid.scale / out.scale < 2**8 for grid in (a, b)):
            return super().add(a, b, out)
        return Kernels.add(self, a, b, out)


class Qnnpack(NativeEngine):
    """PyTorch's QNNPACK kernels."""

    name = "qnnpack"
    kernels = _QnnpackKernels

    def refusal(self, program: Int8Program) -> str | None:
        floats = [node.layer or node.name for node in program.layers() if node.grid is None]
        if floats:
            return (
                f"its linear kernel returns integers only, and {len(floats)} linear layers of this program return float "
                f"({', '.join(floats[:3])}); make it with quantization=any (for x86 and ARM) or quantization=arm"
            )
        return super().refusal(program)


def room_for_bias(weight: Tensor, scale: Tensor, bias: Tensor, input_scale: float) -> tuple[Tensor, Tensor]:
    """Weights on a scale for which b / (s_x s_w) fits into QNNPACK's int32 bias; beyond, it would wrap around silently.

    It happens behind a layer whose outputs are next to nothing: there the bias outweighs every product by far, so that coarser
    weights change the result by less than a step.

    Args:
        weight: int8, shape (C, ...); scale, bias: shape (C,).
    """
    needed = (bias.abs().double() / (input_scale * 2.0**30)).to(scale.dtype)
    if not bool((needed > scale).any()):
        return weight, scale
    wider = torch.maximum(scale, needed)
    shrunk = weight.double() * (scale / wider).double().reshape(-1, *([1] * (weight.dim() - 1)))
    return shrunk.round().to(torch.int8), wider
