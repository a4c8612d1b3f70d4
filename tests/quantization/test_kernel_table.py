"""Kernel tables: every row names an op that exists."""

from __future__ import annotations

import operator

import pytest
import torch

from qat.quantization.kernel_table import FBGEMM, QNNPACK, Kernel, Output, Role
from qat.quantization.program.ops import ATEN_OPS, INT8_OPS

TABLES = {"fbgemm": FBGEMM, "qnnpack": QNNPACK}
TABLE = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)


@TABLE
def test_table_names_every_op_once(table: tuple[Kernel, ...]) -> None:
    names = [kernel.op for kernel in table]
    assert names
    assert len(names) == len(set(names))


@TABLE
def test_ops_of_a_table_exist_in_pytorch(table: tuple[Kernel, ...]) -> None:
    for kernel in table:
        if kernel.op == str(operator.getitem):
            continue
        _, name, overload = kernel.op.split(".")
        assert str(getattr(getattr(torch.ops.aten, name), overload)) == kernel.op


@TABLE
def test_ops_of_a_table_have_a_place_in_the_program(table: tuple[Kernel, ...]) -> None:
    for kernel in table:
        if kernel.role is Role.PASS:
            assert kernel.program_op is None
            in_training_alone = {"aten.detach.default"}
            assert kernel.op in ATEN_OPS | {str(operator.getitem)} | in_training_alone
        else:
            assert kernel.program_op in INT8_OPS


@TABLE
def test_table_absorbs_only_ops_that_it_knows(table: tuple[Kernel, ...]) -> None:
    absorbed = {op for kernel in table for op in kernel.absorbs}
    assert absorbed
    assert absorbed <= {kernel.op for kernel in table}


def test_only_qnnpack_needs_a_grid_behind_every_linear_layer() -> None:
    outputs = {name: kernel.output for name, table in TABLES.items() for kernel in table if kernel.op == "aten.linear.default"}
    assert outputs == {"fbgemm": Output.EITHER, "qnnpack": Output.GRID}
