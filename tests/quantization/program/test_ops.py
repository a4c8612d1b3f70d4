"""The allowlist: real, pure ops only."""

from __future__ import annotations

import torch

from qat.quantization.engines.lowering import aten_op
from qat.quantization.program.ops import ALLOWED_OPS, ATEN_OPS, INT8_OPS, LAYER_OPS, SIZE_OPS


def test_op_lists_are_not_empty_and_disjoint() -> None:
    assert LAYER_OPS
    assert set(LAYER_OPS) <= INT8_OPS
    assert ATEN_OPS
    assert SIZE_OPS
    assert len(ALLOWED_OPS) == len(ATEN_OPS) + len(INT8_OPS) + len(SIZE_OPS)


def test_aten_ops_exist_in_this_pytorch() -> None:
    for op in ATEN_OPS:
        assert str(aten_op(op)) == op


def test_aten_ops_are_functional() -> None:
    """None writes into its inputs or into files, and each takes a tensor or makes one from numbers."""
    for op in ATEN_OPS:
        schema = aten_op(op)._schema  # type: ignore[attr-defined]
        assert not schema.is_mutable, op
        assert not op.split(".")[1].endswith("_"), op
        assert not [a.name for a in schema.arguments if "str" in str(a.type) and a.name in ("filename", "path")], op


def test_aten_ops_leave_out_what_touches_files_or_memory() -> None:
    dangerous = {"from_file", "set_", "data", "resize_", "copy_", "empty", "as_strided", "rand", "bernoulli", "dropout"}
    names = {op.split(".")[1] for op in ATEN_OPS}
    assert all(hasattr(torch.ops.aten, name) for name in dangerous)
    assert names.isdisjoint(dangerous)
