"""Composite ops that no program may hold become the ops that PyTorch makes them of."""

from __future__ import annotations

import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram, default_decompositions

from qat.quantization.graph.normalize import RULES, functional
from qat.quantization.program.ops import ATEN_OPS

#: How deep compositions may nest.
ROUNDS = 5


def decomposed(program: ExportedProgram) -> ExportedProgram:
    """The same without composite ops; what has no decomposition either stays, for `prepare` to name."""
    known = default_decompositions()
    for _ in range(ROUNDS):
        targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
        unknown = {op for op in targets if isinstance(op, OpOverload) and not _is_known(op)}
        table = {op: known[op] for op in unknown if op in known}
        if not table:
            break
        program = program.run_decompositions(table)
    return program


def _is_known(op: OpOverload) -> bool:
    """Whether a program may hold it, or its functional twin, or a rule of normalization reads it. `detach` matters to training
    alone, and is left out at convert."""
    return op is torch.ops.aten.detach.default or any(twin in RULES or str(twin) in ATEN_OPS for twin in (op, functional(op)))
