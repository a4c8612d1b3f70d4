"""Convert: the program computes what the fake quantization simulates."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.errors import CalibrationError
from qat.quantization.calibrate import calibrate
from qat.quantization.convert import convert
from qat.quantization.engines import lower
from qat.quantization.prepare import prepare
from qat.quantization.program.ops import LAYER_OPS
from qat.quantization.program.program import Ref, leaves
from qat.quantization.targets import TARGETS
from tests.quantization.networks import CASES, Inline, calibrated, converted
from tests.quantization.simulated import alone, simulated

NAME = pytest.mark.parametrize("name", CASES)


@pytest.mark.parametrize("target", TARGETS)
@NAME
def test_program_equals_the_simulation_layer_by_layer(name: str, target: str) -> None:
    """Every layer, given the simulation's own input: within one grid step, and nearly always equal."""
    prepared, program = calibrated(name, target), converted(name, target)
    values = simulated(prepared, CASES[name].inputs(5, seed=7))
    differing = total = 0
    for node in program.layers():
        (x,) = (leaf.name for leaf in leaves(node.args) if isinstance(leaf, Ref))
        result, seen = lower(alone(program, node, values), "reference").watch(values[x])
        expected = values[node.name]
        if node.grid is None:
            torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
            continue
        integers = torch.round(expected / node.grid.scale) + node.grid.zero_point
        steps = (seen[node.name].float() - integers).abs()
        assert float(steps.max()) <= 1, node.name
        differing += int((steps > 0).sum())
        total += steps.numel()
    assert differing <= 1e-3 * total + 1


@NAME
def test_program_decides_like_the_simulation(name: str) -> None:
    x = CASES[name].inputs(16, seed=8)
    with torch.no_grad():
        expected = calibrated(name)(x)
    got = lower(converted(name), "reference")(x)
    signal, noise = expected.var(), (got - expected).square().mean()
    assert float(signal / noise) > 100  # 20 dB at the very least


@NAME
def test_program_is_close_to_the_float_model(name: str) -> None:
    x = CASES[name].inputs(16, seed=8)
    with torch.no_grad():
        expected = CASES[name].model()(x)
    got = lower(converted(name), "reference")(x)
    assert got.shape == expected.shape
    assert float(torch.corrcoef(torch.stack([got.flatten(), expected.flatten()]))[0, 1]) > 0.97


@NAME
def test_convert_leaves_the_prepared_model_untouched(name: str) -> None:
    prepared = calibrated(name)
    prepared.set_observing_(True)
    before = copy.deepcopy(prepared.state_dict())
    code = prepared.network.code
    convert(prepared)
    assert prepared.network.code == code
    after = prepared.state_dict()
    assert after.keys() == before.keys()
    for key, value in before.items():
        assert torch.equal(after[key], value) if isinstance(value, Tensor) else after[key] == value


@NAME
def test_convert_gives_the_same_program_twice(name: str) -> None:
    prepared = calibrated(name)
    first, second = convert(prepared), convert(prepared)
    assert first.nodes == second.nodes
    assert first.output == second.output
    assert all(torch.equal(value, second.tensors[key]) for key, value in first.tensors.items())


def test_convert_uses_the_weights_of_the_last_step() -> None:
    prepared = calibrated("conv")
    before = convert(prepared)
    with torch.no_grad():
        for parameter in prepared.parameters():
            parameter.mul_(-1)
    after = convert(prepared)
    for node in before.layers():
        weight = node.args[1].name
        assert torch.equal(after.tensors[weight], -before.tensors[weight])


def test_convert_stores_weights_as_the_simulation_rounds_them() -> None:
    prepared = calibrated("squeeze_excite")
    program = convert(prepared)
    values = simulated(prepared, CASES["squeeze_excite"].inputs())
    layers = list(program.layers())
    assert layers
    for node in layers:
        weight, scale = (program.tensors[ref.name] for ref in node.args[1:3])
        product = weight.float() * scale.reshape(-1, *([1] * (weight.dim() - 1)))
        assert torch.equal(product, values[f"weight_fake_quantize_{node.name}"])


@NAME
def test_convert_holds_plain_tensors_only(name: str) -> None:
    program = converted(name)
    plain = {torch.int8, torch.uint8, torch.float32, torch.int64, torch.bool}
    assert {tensor.dtype for tensor in program.tensors.values()} <= plain
    assert not any(tensor.requires_grad or tensor.is_quantized for tensor in program.tensors.values())
    used = {program.tensors[node.args[1].name].dtype for node in program.layers()}
    assert used == {torch.int8}


def test_convert_computes_constants_once() -> None:
    """What depends on parameters alone is a tensor of the program: no op is left of it."""

    def function(m: Any, x: Tensor) -> Tensor:
        table = torch.softmax(m.table.weight, -1).sum(0) * torch.arange(4)
        z: Tensor = m.linear(x) + table.exp()
        return z

    model = Inline(function, linear=nn.Linear(3, 4), table=nn.Embedding(5, 4)).eval()
    prepared = prepare(model, (torch.randn(2, 3),))
    x = torch.randn(8, 3)
    calibrate(prepared, [x])
    program = convert(prepared)
    assert [node.op for node in program.nodes] == ["int8.quantize", "int8.linear", "aten.add.Tensor"]
    with torch.no_grad():
        torch.testing.assert_close(lower(program, "reference")(x), model(x), atol=0.05, rtol=0.05)


def test_convert_merges_a_layer_and_its_activation_into_one_node() -> None:
    ops = [node.op for node in converted("conv").nodes]
    assert ops == [
        "int8.quantize",
        "int8.conv2d",
        "int8.conv2d",
        "int8.adaptive_avg_pool2d",
        "aten.flatten.using_ints",
        "int8.linear",
    ]


def test_convert_keeps_the_structure_of_the_output() -> None:
    def function(m: Any, x: Tensor) -> Any:
        y = m.conv(x)
        return {"grid": y, "more": [F.gelu(y), (y.flatten(1),)]}

    model = Inline(function, conv=nn.Conv2d(3, 4, 1)).eval()
    prepared = prepare(model, (torch.randn(2, 3, 5, 5),))
    x = torch.randn(6, 3, 5, 5)
    calibrate(prepared, [x])
    with torch.no_grad():
        expected = model(x)
    got = lower(convert(prepared), "reference")(x)
    assert got.keys() == expected.keys()
    assert isinstance(got["more"], list)
    assert isinstance(got["more"][1], tuple)
    for a, b in zip(leaves(got), leaves(expected), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=0.06, rtol=0.05)


def test_convert_before_calibrate_names_the_tensor() -> None:
    prepared = prepare(CASES["conv"].model(), (CASES["conv"].inputs(),))
    with pytest.raises(CalibrationError, match=r"tensor 'x'.*calibrate"):
        convert(prepared)


def test_convert_keeps_layers_float_when_told_to() -> None:
    case = CASES["conv"]
    prepared = prepare(case.model(), (case.inputs(),), keep_float=["body"])
    calibrate(prepared, [case.inputs(4)])
    program = convert(prepared)
    assert [node.layer for node in program.layers()] == ["stem.0", "head"]
    assert "aten.conv2d.default" in [node.op for node in program.nodes]
    assert set(LAYER_OPS) > {node.op for node in program.layers()}
    x = case.inputs(4)
    with torch.no_grad():
        torch.testing.assert_close(lower(program, "reference")(x), prepared(x), atol=0.02, rtol=0.02)


def test_convert_ties_a_weight_that_two_layers_share() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    model = Inline(lambda m, x: m.second(F.relu(m.first(x))), first=first, second=second).eval()
    prepared = prepare(model, (torch.randn(2, 4),))
    x = torch.randn(16, 4)
    calibrate(prepared, [x])
    with torch.no_grad():
        torch.testing.assert_close(lower(convert(prepared), "reference")(x), model(x), atol=0.05, rtol=0.05)
