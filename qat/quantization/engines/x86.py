"""The x86 engine: PyTorch's own choice, layer by layer, between FBGEMM and oneDNN.

oneDNN rounds in another order: an output may differ from `reference` by one step, in fewer than 1 of 100,000. Strides that
differ between height and width go to FBGEMM: oneDNN's depthwise kernels with a multiplier are off by up to 200 steps there
(torch 2.15).
"""

from __future__ import annotations

from torch import Tensor

from qat.environment import isa
from qat.quantization.engines.fbgemm import FbgemmKernels
from qat.quantization.engines.kernels import Function
from qat.quantization.engines.native import pack_linear, quantized_engine
from qat.quantization.engines.native_engine import NativeEngine
from qat.quantization.program.program import Node
from qat.quantization.qparams import QParams

#: More groups than these go to FBGEMM everywhere.
ONEDNN_GROUPS = 100


class _X86Kernels(FbgemmKernels):
    def runs(self, node: Node) -> bool:
        """PyTorch takes oneDNN where the CPU has VNNI, for up to 100 groups."""
        stride, groups = node.args[4], node.args[7]
        return "vnni" not in isa() or groups > ONEDNN_GROUPS or stride[0] != stride[-1]

    def layer(self, node: Node, tensors: list[Tensor | None], grid: QParams) -> Function:
        if node.op == "int8.linear" and node.grid is None:  # only FBGEMM returns float from a linear layer
            weight, scale, bias = tensors
            assert weight is not None
            assert scale is not None
            with quantized_engine("fbgemm"):
                packed: object = pack_linear(weight, scale, bias)
            return self.linear(packed, grid, None)
        if node.op == "int8.conv2d" and node.args[4][0] != node.args[4][1]:  # oneDNN's sums can be wrong there, by far
            with quantized_engine("fbgemm"):
                return super().layer(node, tensors, grid)
        return super().layer(node, tensors, grid)


class X86(NativeEngine):
    """FBGEMM or oneDNN, whichever PyTorch picks for the layer."""

    name = "x86"
    kernels = _X86Kernels
