"""The FBGEMM engine: x86 servers. Equal to `reference` bit for bit."""

from __future__ import annotations

from typing import Any

import torch

from qat.quantization.engines.cpu import saturation_refusal
from qat.quantization.engines.engine import Engine, Int8Model
from qat.quantization.engines.lowering import Function, lower
from qat.quantization.engines.native import NativeKernels, missing, quantized_engine
from qat.quantization.program import Int8Program
from qat.quantization.qparams import QParams


class Fbgemm(Engine):
    """PyTorch's FBGEMM kernels."""

    name = "fbgemm"

    def refusal(self, program: Int8Program) -> str | None:
        return missing(self.name) or saturation_refusal(program.target)

    def lower(self, program: Int8Program) -> Int8Model:
        with quantized_engine(self.name):
            return lower(program, FbgemmKernels(), engine=self.name)


class FbgemmKernels(NativeKernels):
    """Adds the linear layer that quantizes its float input, multiplies in INT8 and returns float, in one kernel."""

    quantizes_inside = True

    def unary(self, op: str, grid: QParams | None, out: QParams | None, *, scratch: bool) -> Function:
        """Hardswish has a kernel that reads and writes integers in one pass, with the same result bit for bit."""
        if op != "int8.hardswish" or grid is None or out is None:
            return super().unary(op, grid, out, scratch=scratch)
        run, scale, zero_point = torch.ops.quantized.hardswish.default, out.scale, out.zero_point
        return lambda q: run(q, scale, zero_point)

    def linear(self, packed: Any, grid: QParams, out: QParams | None) -> Function:
        if out is not None:
            return super().linear(packed, grid, out)
        run = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
        scale, zero_point = grid.scale, grid.zero_point
        return lambda x: run(x.dequantize() if x.is_quantized else x, scale, zero_point, packed)
