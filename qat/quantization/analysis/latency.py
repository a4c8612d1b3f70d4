"""Latency: where the time of an INT8 model goes, op by op: what float costs in time, and not only in multiply-adds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from qat.quantization.engines import lower
from qat.quantization.engines.steps import StepModel
from qat.quantization.program.program import Int8Program

#: Kinds of work.
INTEGER, FLOAT, CONVERSION = "integer", "float", "conversion"


@dataclass(frozen=True, kw_only=True)
class OpTime:
    """All ops of one name together.

    Args:
        kind: `integer`, `float`, or `conversion` between the two.
        count: how many there are.
        ms: median milliseconds of all of them in one pass.
        share: of the whole pass, in [0, 1].
    """

    op: str
    kind: str
    count: int
    ms: float
    share: float


def latency(program: Int8Program, engine: str, inputs: Sequence[Tensor], *, repeats: int = 20) -> list[OpTime]:
    """The time of every kind of op, longest first; empty for engines that show no steps.

    Args:
        inputs: of the program.
        repeats: passes, after two that do not count; medians per step.
    """
    model = lower(program, engine)
    if not isinstance(model, StepModel):
        return []
    passes = [model.clock(*inputs) for _ in range(repeats + 2)][2:]
    ops = {node.name: node for node in program.nodes}
    found: dict[tuple[str, str], list[float]] = {}
    for name in passes[0]:
        node = ops.get(name)  # merged layers have names of their own
        op = node.op if node is not None else "int8.linear"
        on_grid = op.startswith("int8.") or (node is not None and node.grid is not None)
        kind = CONVERSION if op in ("int8.quantize", "int8.dequantize") else INTEGER if on_grid else FLOAT
        found.setdefault((op, kind), []).append(1e3 * statistics.median(times[name] for times in passes))
    total = sum(map(sum, found.values()))
    rows = [
        OpTime(op=op, kind=kind, count=len(times), ms=sum(times), share=sum(times) / total if total else 0.0)
        for (op, kind), times in found.items()
    ]
    return sorted(rows, key=lambda row: -row.ms)


def shares(rows: Sequence[OpTime]) -> dict[str, float]:
    """The share of the time of each kind of work."""
    return {kind: sum(row.share for row in rows if row.kind == kind) for kind in (INTEGER, FLOAT, CONVERSION)}


def described(rows: Sequence[OpTime]) -> str:
    """One sentence: `71% integer, 20% float (softmax 8%, layer_norm 6%), 9% between the two`."""
    of = shares(rows)
    floats = [row for row in rows if row.kind == FLOAT and row.share >= 0.01][:4]
    named = ", ".join(f"{row.op.removeprefix('aten.').split('.')[0]} {row.share:.0%}" for row in floats)
    inside = f" ({named})" if named else ""
    return f"{of[INTEGER]:.0%} integer, {of[FLOAT]:.0%} float{inside}, {of[CONVERSION]:.0%} between the two"
