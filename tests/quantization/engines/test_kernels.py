"""Kernel sets: element-wise ops as their records say, in place where that is safe, and what an engine computes inside."""

from __future__ import annotations

import pytest
import torch

from qat.quantization.engines.reference import _ReferenceKernels
from qat.quantization.kernel_table import FBGEMM, QNNPACK
from qat.quantization.program.ops import CHAIN_OPS, ELEMENTWISE, INT8_OPS
from qat.quantization.qparams import QParams
from tests.quantization.layers import LAYERS
from tests.quantization.programs import bound

GRID, OUT = QParams(scale=2**-4, zero_point=128), QParams(scale=2**-5, zero_point=7)
BOUNDS = {"int8.clamp": (-1.0, 2.0)}


@pytest.mark.parametrize("op", ELEMENTWISE)
def test_elementwise_op_is_computed_in_float_between_reading_and_writing(op: str) -> None:
    kernels, record = _ReferenceKernels(), ELEMENTWISE[op]
    integers = torch.arange(256.0)
    x, rest = (integers - GRID.zero_point) * GRID.scale, BOUNDS.get(op, ())
    expected = (record.function(x, *rest) / OUT.scale).round().add(OUT.zero_point).clamp(0, 255)
    assert torch.equal(kernels.unary(op, GRID, OUT, scratch=False)(integers, *rest), expected)


@pytest.mark.parametrize("op", ELEMENTWISE)
@pytest.mark.parametrize("scratch", [False, True])
def test_float_input_is_overwritten_only_where_nobody_else_reads_it(op: str, scratch: bool) -> None:
    x, rest = torch.linspace(-4, 4, 64), BOUNDS.get(op, ())
    before = x.clone()
    result = _ReferenceKernels().unary(op, None, None, scratch=scratch)(x, *rest)
    torch.testing.assert_close(result, ELEMENTWISE[op].function(before, *rest))
    assert (result.data_ptr() == x.data_ptr()) == scratch
    assert scratch or torch.equal(x, before)


@pytest.mark.parametrize("table", [FBGEMM, QNNPACK], ids=["fbgemm", "qnnpack"])
def test_every_elementwise_op_is_in_tables_and_allowlist(table: tuple[object, ...]) -> None:
    offered = {kernel.program_op for kernel in table}  # type: ignore[attr-defined]
    assert ELEMENTWISE.keys() <= offered & CHAIN_OPS & INT8_OPS


def test_fbgemm_quantizes_inside_its_float_linear() -> None:
    """The quantize of a float tensor that only such linears read is not run on its own."""
    program = LAYERS["linear float 37"].program()
    assert [step.name for step in bound(program, "reference")._steps] == [node.name for node in program.nodes]
    assert [step.name for step in bound(program, "fbgemm")._steps] == [program.nodes[-1].name]
