"""The FBGEMM engine: x86 servers. Equal to `reference` bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor

from qat.quantization.engines.exact_float import exact_layer, is_slow
from qat.quantization.engines.groups import merge_groups
from qat.quantization.engines.kernels import Function
from qat.quantization.engines.native import NativeKernels
from qat.quantization.engines.native_engine import NativeEngine
from qat.quantization.program.program import Node
from qat.quantization.qparams import QParams


class FbgemmKernels(NativeKernels):
    """Adds the linear layer that quantizes its float input, multiplies in INT8 and returns float, in one kernel."""

    quantizes_inside = True

    def layer(self, node: Node, tensors: list[Tensor | None], grid: QParams) -> Function:
        """Groups that FBGEMM's kernels overrun are merged; layers that it has no fast kernel for go by exact float sums."""
        weight, *rest = tensors
        assert weight is not None
        slow = node.op != "int8.linear" and self.runs(node) and is_slow(node, weight)
        exact = exact_layer(node, tensors, grid, self) if slow else None
        if exact is not None:
            return exact
        node, weight = merge_groups(node, weight)
        return super().layer(node, [weight, *rest], grid)

    def runs(self, node: Node) -> bool:
        """Whether FBGEMM runs a convolution, and not oneDNN."""
        return True

    def unary(self, op: str, grid: QParams | None, out: QParams | None, *, scratch: bool) -> Function:
        """Hardswish has a kernel that reads and writes integers in one pass, with the same result bit for bit."""
        if op != "int8.hardswish" or grid is None or out is None:
            return super().unary(op, grid, out, scratch=scratch)
        run, scale, zero_point = torch.ops.quantized.hardswish.default, out.scale, out.zero_point
        return lambda q: run(q, scale, zero_point)

    def linear(self, packed: object, grid: QParams, out: QParams | None) -> Function:
        if out is not None:
            return super().linear(packed, grid, out)
        run = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
        scale, zero_point = grid.scale, grid.zero_point
        return lambda x: run(x.dequantize() if x.is_quantized else x, scale, zero_point, packed)


class Fbgemm(NativeEngine):
    """PyTorch's FBGEMM kernels."""

    name = "fbgemm"
    exact = True
    kernels = FbgemmKernels
