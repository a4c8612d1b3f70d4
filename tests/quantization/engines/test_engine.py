"""Int8Model: what it takes, what it refuses, what `watch` shows."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from qat.errors import EngineError, InputError
from qat.quantization.engines import ENGINES, Engine, Int8Model, lower
from qat.quantization.program.program import Int8Program, Ref
from tests.quantization.layers import LAYERS
from tests.quantization.networks import CASES, converted
from tests.quantization.op_programs import op_inputs, op_program
from tests.quantization.programs import Writer

ENGINE = pytest.mark.parametrize("engine", ENGINES)


def conv_model(engine: str) -> Int8Model:
    return lower(converted("conv", "any"), engine)


def test_engines_were_found_under_their_own_names() -> None:
    assert ENGINES
    assert all(isinstance(engine, Engine) and engine.name == name for name, engine in ENGINES.items())


@ENGINE
def test_model_takes_every_batch_size(engine: str) -> None:
    model = conv_model(engine)
    for batch in (1, 2, 5):
        assert model(CASES["conv"].inputs(batch)).shape == (batch, 5)


@ENGINE
@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ((), "takes 1 inputs .*got 0"),
        ((torch.zeros(1, 3, 9, 7), torch.zeros(1)), "takes 1 inputs .*got 2"),
        (([[1.0]],), "an input is a float"),
        ((torch.zeros(1, 3, 9, 7, dtype=torch.complex64),), r"torch.float32 tensor .*got torch.complex64"),
        ((torch.zeros(1, 3, 9, 7, dtype=torch.uint8),), "got torch.uint8"),
        ((torch.zeros(3, 9, 7),), r"shape \(any, 3, 9, 7\), got .*\(3, 9, 7\)"),
        ((torch.zeros(1, 4, 9, 7),), r"got .*\(1, 4, 9, 7\)"),
        ((torch.zeros(1, 3, 9, 8),), r"got .*\(1, 3, 9, 8\)"),
    ],
    ids=["none", "two", "list", "complex", "uint8", "no batch", "channels", "width"],
)
def test_model_refuses_an_input_that_does_not_fit(inputs: tuple[Any, ...], words: str, engine: str) -> None:
    model = conv_model(engine)
    for call in (model, model.watch):
        with pytest.raises(InputError, match=words):
            call(*inputs)


@ENGINE
def test_model_refuses_an_input_on_another_device(engine: str) -> None:
    x = torch.zeros(1, 3, 9, 7, device="meta")
    if engine == "reference":
        pytest.skip("the reference runs on any device")
    with pytest.raises(InputError, match="on meta"):
        conv_model(engine)(x)


@ENGINE
def test_model_has_no_parameters_and_no_gradient(engine: str) -> None:
    model = conv_model(engine)
    assert list(model.parameters()) == []
    assert not model(CASES["conv"].inputs().requires_grad_()).requires_grad


@ENGINE
def test_model_leaves_its_inputs_and_weights_alone(engine: str) -> None:
    for name in CASES:
        program = converted(name, "any")
        tensors = {key: value.clone() for key, value in program.tensors.items()}
        x = CASES[name].inputs(2)
        before = x.clone()
        model = lower(program, engine)
        first = model(x)
        assert torch.equal(model(x), first)
        assert torch.equal(x, before)
        assert all(torch.equal(program.tensors[key], value) for key, value in tensors.items())


@ENGINE
def test_watch_returns_what_forward_returns(engine: str) -> None:
    program = op_program("chunk", target="any")
    inputs = op_inputs()
    model = lower(program, engine)
    result, seen = model.watch(*inputs)
    assert torch.equal(result, model(*inputs))
    for name in program.grids():
        values = seen[name] if isinstance(seen[name], tuple | list) else [seen[name]]
        assert all(value.dtype == torch.uint8 for value in values)


@ENGINE
def test_watch_replays_the_values_that_it_is_given(engine: str) -> None:
    """With everything at zero point before it, a layer returns its bias alone."""
    layer = LAYERS["dense 3x3"]
    program = layer.program(target="any")
    model = lower(program, engine)
    x = layer.inputs()
    quantize, convolution = program.nodes[:2]
    assert quantize.grid is not None
    assert convolution.grid is not None
    zero = torch.full(x.shape, quantize.grid.zero_point, dtype=torch.uint8)
    _, seen = model.watch(x, replay={quantize.name: zero})
    assert not torch.equal(seen[quantize.name], zero)  # it shows what it computed, and goes on with what it was given
    bias = program.tensors[convolution.args[3].name]
    expected = (torch.round(bias / convolution.grid.scale) + convolution.grid.zero_point).clamp(0, 255)
    assert int((seen[convolution.name] - expected[None, :, None, None]).abs().max()) <= 1


@ENGINE
def test_model_returns_an_output_that_is_used_again(engine: str) -> None:
    """A value that is an output and an input of later nodes is not freed."""
    writer = Writer((4,))
    first = writer.add("aten.relu.default", Ref("x0"))
    second = writer.add("aten.neg.default", first)
    third = writer.add("aten.neg.default", second)
    model = lower(writer.finish({"all": [first, second, third], "again": (first, Ref("x0"))}), engine)
    x = torch.randn(3, 4)
    result = model(x)
    assert torch.equal(result["all"][0], x.relu())
    assert torch.equal(result["all"][1], -x.relu())
    assert torch.equal(result["all"][2], x.relu())
    assert torch.equal(result["again"][1], x)


def test_lower_names_the_engines_near() -> None:
    with pytest.raises(EngineError, match=r"unknown engine 'fbgem'.*Did you mean 'fbgemm'.*qnnpack"):
        lower(converted("conv"), "fbgem")


def test_lower_defaults_to_fbgemm() -> None:
    assert lower(converted("conv")).engine == "fbgemm"


@ENGINE
def test_float_ops_between_integers_compute_in_float(engine: str) -> None:
    def program() -> Int8Program:
        writer = Writer((4,), target="any")
        q = writer.quantized()
        x = writer.add("int8.dequantize", q)
        return writer.finish(writer.add("aten.softmax.int", x, -1))

    x = torch.tensor([[0.5, -0.25, 1.0, 2.0]])  # on the grid
    got: Tensor = lower(program(), engine)(x)
    torch.testing.assert_close(got, x.softmax(-1))


@ENGINE
def test_model_is_copied_and_sent_to_other_processes_as_its_program(engine: str) -> None:
    model, x = conv_model(engine), CASES["conv"].inputs(2)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert isinstance(other, Int8Model)
        assert other.engine == engine
        assert torch.equal(other(x), model(x))
