from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qat.errors import GateError
from qat.evaluation.evaluate import Difference
from qat.evaluation.gates import Gate, budget_gate, enforce, kernel_gate, simulation_gate
from qat.quantization.analysis import parity
from qat.quantization.analysis.parity import simulation_parity
from qat.quantization.engines import ENGINES, Int8Model, lower
from qat.quantization.program.program import Int8Program
from tests.evaluations import evaluation
from tests.quantization.networks import CASES, calibrated, converted, observed

ALIKE = evaluation([100.0, 0.0, 100.0, 100.0])


def _inputs(name: str) -> list[Tensor]:
    return [CASES[name].inputs(4, seed=7)]


def _one_weight_altered(program: Int8Program, layer: int) -> tuple[Int8Program, str]:
    """The program with one weight of one layer moved by one step, and that layer's node."""
    node = list(program.layers())[layer]
    weight, scale = (program.tensors[ref.name].clone() for ref in node.args[1:3])
    channel = weight[int(scale.argmax())].view(-1)  # where a step is largest
    channel[-1] += 1 if channel[-1] < 0 else -1
    return replace(program, tensors={**program.tensors, node.args[1].name: weight}), node.name


@pytest.mark.parametrize("name", ["conv", "residual"])
@pytest.mark.parametrize("engine", ["reference", "fbgemm"])
def test_kernel_gate_passes_for_exact_engines(engine: str, name: str) -> None:
    gate = kernel_gate(converted(name), engine, _inputs(name), reference=ALIKE, result=ALIKE)
    assert (gate.name, gate.passed) == (f"kernel/{engine}", True), gate.detail


@pytest.mark.parametrize("engine", ENGINES)
def test_kernel_gate_passes_for_every_engine(engine: str) -> None:
    program = converted("conv", "any")
    gate = kernel_gate(program, engine, _inputs("conv"), reference=ALIKE, result=ALIKE)
    assert gate.passed, gate.detail


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_kernel_gate_names_the_layer_of_which_one_weight_is_one_step_off(monkeypatch: pytest.MonkeyPatch, layer: int) -> None:
    program = converted("residual")
    altered, node = _one_weight_altered(program, layer)

    def lower_altered(given: Int8Program, engine: str = "fbgemm") -> Int8Model:
        return lower(altered if engine == "fbgemm" else given, engine)

    monkeypatch.setattr(parity, "lower", lower_altered)
    gate = kernel_gate(program, "fbgemm", _inputs("residual"), reference=ALIKE, result=ALIKE)
    assert not gate.passed
    assert f"({node})" in gate.detail


def test_kernel_gate_holds_an_exact_engine_to_every_decision() -> None:
    one_off = evaluation([100.0, 0.0, 100.0, 100.0], [0, 1, 2, 9])
    gate = kernel_gate(converted("conv"), "fbgemm", _inputs("conv"), reference=ALIKE, result=one_off)
    assert not gate.passed
    assert "75.00%" in gate.detail


@pytest.mark.parametrize(("different", "passed"), [(1, True), (2, False)])
def test_kernel_gate_lets_other_engines_decide_otherwise_once_in_a_hundred(different: int, passed: bool) -> None:
    reference = evaluation([100.0] * 100, [0] * 100)
    result = evaluation([100.0] * 100, [0] * (100 - different) + [1] * different)
    program = converted("conv", "any")
    assert kernel_gate(program, "qnnpack", _inputs("conv"), reference=reference, result=result).passed is passed


def test_kernel_gate_refuses_a_metric_outside_the_interval() -> None:
    """Alike predictions may still be worth less, when what they are worth is not just right or wrong."""
    reference, result = evaluation([100.0] * 50, range(50)), evaluation([90.0] * 50, range(50))
    program = converted("conv", "any")
    assert not kernel_gate(program, "qnnpack", _inputs("conv"), reference=reference, result=result).passed


@pytest.mark.parametrize("name", CASES)
def test_simulation_gate_passes_for_what_was_converted(name: str) -> None:
    gate = simulation_gate(simulation_parity(calibrated(name), converted(name), _inputs(name)), simulated=ALIKE, int8=ALIKE)
    assert gate.passed, gate.detail


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_simulation_gate_names_the_tensor_of_which_the_scale_was_altered_after_convert(index: int) -> None:
    """A smaller range clamps what reaches the top of it."""
    prepared, program = calibrated("residual"), converted("residual")
    tensor, module = list(prepared.fake_quantizes())[index]
    for end in (observed(module).low, observed(module).high):
        end.mul_(0.8)
    gate = simulation_gate(simulation_parity(prepared, program, _inputs("residual")), simulated=ALIKE, int8=ALIKE)
    assert not gate.passed
    names = {tensor, f"{tensor}_quantized", prepared.placement.absorbed.get(tensor)}
    assert any(f"({name})" in gate.detail for name in names), gate.detail


@pytest.mark.parametrize(("worse", "passed"), [(0, True), (2, True), (60, False)])
def test_simulation_gate_compares_the_metric_by_the_paired_interval(worse: int, passed: bool) -> None:
    """2 of 1,000 samples are 0.2 points, which is allowed; 60 are 6 points, and no chance."""
    simulated = evaluation([100.0] * 1000)
    int8 = evaluation([0.0] * worse + [100.0] * (1000 - worse))
    gate = simulation_gate(
        simulation_parity(calibrated("conv"), converted("conv"), _inputs("conv")), simulated=simulated, int8=int8
    )
    assert gate.passed is passed


@pytest.mark.parametrize(("budget", "passed"), [(None, True), (1.0, True), (0.5, True), (0.4, False), (-100.0, False)])
def test_budget_gate_holds_the_drop_to_the_budget(budget: float | None, passed: bool) -> None:
    assert budget_gate(Difference(value=0.5, ci95=(0.0, 1.0), ci99=(0.0, 1.0), count=10), budget).passed is passed


def test_budget_gate_is_not_passed_by_a_drop_that_is_no_number() -> None:
    assert not budget_gate(Difference(value=float("nan"), ci95=(0.0, 1.0), ci99=(0.0, 1.0), count=10), 1.0).passed


def test_enforce_names_every_failed_gate() -> None:
    gates = [
        Gate(name="kernel/fbgemm", passed=False, detail="first bad layer 'stem'"),
        Gate(name="simulation", passed=True, detail="fine"),
        Gate(name="accuracy", passed=False, detail="drop +3 points"),
    ]
    with pytest.raises(GateError, match=r"kernel/fbgemm \(first bad layer 'stem'\); accuracy \(drop \+3 points\)") as caught:
        enforce(gates)
    assert caught.value.exit_code == 4
    assert "fine" not in str(caught.value)
    enforce(gates[1:2])


def test_inputs_differ_from_those_of_calibration() -> None:
    assert not torch.equal(_inputs("conv")[0], CASES["conv"].inputs(4, seed=2))
