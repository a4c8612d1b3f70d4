"""The gates: what must hold before an artifact is worth anything.

* kernel gate       an engine computes what `reference` computes: bit for bit (fbgemm), or one grid step, the same predictions;
* simulation gate   the metric of the trained simulation is the metric of the INT8 network, and so is every layer;
* accuracy budget   the drop from FP32 is what the user accepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from qat.deploy.artifact import EXACT_ENGINES
from qat.errors import GateError
from qat.evaluation.evaluate import Difference, Evaluation, agreement, paired_difference
from qat.quantization.analysis.parity import LayerParity, engine_parity, first_bad
from qat.quantization.program.program import Int8Program

#: Share of a layer's outputs that an engine with another rounding order may put one step away.
ONE_STEP_SHARE = {"x86": 1e-5, "qnnpack": 1.0}

#: Points by which the simulation's metric may miss INT8's without a look at the interval.
SIMULATION_POINTS = 0.2

#: Share of samples on which an engine must decide as `reference` does.
MIN_AGREEMENT = 0.99


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One checked promise."""

    name: str
    passed: bool
    detail: str


def kernel_gate(
    program: Int8Program, engine: str, inputs: Sequence[Tensor], *, reference: Evaluation, result: Evaluation
) -> Gate:
    """Hold an engine to the reference: layer by layer on `inputs`, and in the predictions of two evaluations."""
    rows = engine_parity(program, engine, inputs)
    exact = engine in EXACT_ENGINES
    bad = first_bad(rows, max_steps=0 if exact else 1)
    if bad is None and not exact:
        bad = _too_many(rows, ONE_STEP_SHARE.get(engine, 1e-5))
    alike, difference = agreement(reference, result), paired_difference(reference, result)
    decides = alike == 1.0 if exact else alike >= MIN_AGREEMENT and (difference.contains_zero() or difference.value == 0)
    if bad is not None:
        detail = f"first bad layer {bad.layer or bad.name!r} ({bad.name}): {bad.max_steps} steps, {bad.differing:.2%} differ"
    else:
        detail = f"{len(rows)} tensors compared; same decision on {alike:.2%} of {difference.count}"
    return Gate(name=f"kernel/{engine}", passed=bad is None and decides, detail=detail)


def simulation_gate(rows: Sequence[LayerParity], *, simulated: Evaluation, int8: Evaluation) -> Gate:
    """Hold the fake-quant simulation to the INT8 network: metric, and every layer given the same input.

    Args:
        rows: see `simulation_parity`.
    """
    bad = first_bad(rows, max_steps=1)
    difference = paired_difference(simulated, int8)
    metric = abs(difference.value) <= SIMULATION_POINTS or difference.contains_zero()
    if bad is not None:
        detail = f"first bad layer {bad.layer or bad.name!r} ({bad.name}): {bad.max_steps} steps given the same input"
    else:
        detail = f"{difference.value:+.3f} points, same decision on {agreement(simulated, int8):.2%} of {difference.count}"
    return Gate(name="simulation", passed=bad is None and metric, detail=detail)


def budget_gate(drop: Difference, max_drop: float | None) -> Gate:
    """Hold the drop from FP32 to the budget in points; None accepts any."""
    passed = max_drop is None or drop.value <= max_drop
    budget = "no budget" if max_drop is None else f"budget {max_drop}"
    return Gate(name="accuracy", passed=passed, detail=f"drop {drop.value:+.3f} points, {budget}")


def enforce(gates: Sequence[Gate]) -> None:
    """Raise `GateError` when a gate failed, naming each."""
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        raise GateError("failed: " + "; ".join(f"{gate.name} ({gate.detail})" for gate in failed))


def _too_many(rows: Sequence[LayerParity], share: float) -> LayerParity | None:
    """A layer with more one-step outputs than the share allows; below 1/share outputs a single one proves nothing."""
    counted = [row for row in rows if row.outputs >= 10 / share]
    return first_bad(counted, max_steps=1, max_differing=share)
