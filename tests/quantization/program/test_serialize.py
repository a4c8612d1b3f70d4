"""Programs as JSON: the round trip loses nothing; what is malformed is refused."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from qat.errors import ProgramError
from qat.quantization.engines import lower
from qat.quantization.program.program import Int8Program, Ref
from qat.quantization.program.serialize import from_json, to_json
from qat.quantization.targets import TARGETS
from tests.quantization.networks import CASES, converted
from tests.quantization.programs import Writer


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_json_round_trip_is_equal(name: str, target: str) -> None:
    program = converted(name, target)
    text = json.dumps(to_json(program), allow_nan=False)
    again = from_json(json.loads(text), program.tensors)
    assert again.nodes == program.nodes
    assert again.inputs == program.inputs
    assert again.output == program.output
    assert again.target == program.target
    assert json.dumps(to_json(again)) == text


def test_json_round_trip_computes_the_same() -> None:
    program = converted("squeeze_excite")
    again = from_json(json.loads(json.dumps(to_json(program))), program.tensors)
    x = CASES["squeeze_excite"].inputs(3)
    assert torch.equal(lower(again, "reference")(x), lower(program, "reference")(x))


ARGUMENTS: list[Any] = [
    None,
    True,
    3,
    -0.1,
    1e-45,
    math.inf,
    -math.inf,
    "nearest",
    torch.float32,
    torch.int64,
    torch.bool,
    torch.channels_last,
    torch.contiguous_format,
    (1, (2, [3.5, None])),
    [],
    (),
    {},
    {"a": {"b": (1,)}},
    {"ref": 1},
    {"tuple": [1]},
    [Ref("x0"), {"k": Ref("x0")}],
]


@pytest.mark.parametrize("argument", ARGUMENTS, ids=repr)
def test_json_round_trip_keeps_every_kind_of_argument(argument: Any) -> None:
    writer = Writer((3,))
    y = writer.add("aten.clone.default", Ref("x0"), argument, option=argument)
    program = writer.finish({"a": [y], "b": (y,)})
    again = from_json(json.loads(json.dumps(to_json(program), allow_nan=False)), {})
    assert again.nodes[0].args[1] == argument
    assert type(again.nodes[0].args[1]) is type(argument)
    assert again.nodes[0].kwargs["option"] == argument
    assert again.output == program.output


def test_json_keeps_nan_as_an_argument() -> None:
    program = Writer((3,))
    y = program.add("aten.full.default", [2], math.nan)
    again = from_json(json.loads(json.dumps(to_json(program.finish(y)), allow_nan=False)), {})
    assert math.isnan(again.nodes[0].args[1])


FOREIGN = [torch.ones(1), object(), {1, 2}, b"bytes", torch.device("cpu"), 1j]


@pytest.mark.parametrize("value", FOREIGN, ids=lambda value: type(value).__name__)
def test_to_json_refuses_what_is_no_data(value: Any) -> None:
    writer = Writer((3,))
    program = writer.finish(writer.add("aten.clone.default", Ref("x0"), value))
    with pytest.raises(ProgramError, match="cannot hold"):
        to_json(program)


def grid(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["nodes"][0]["grid"].update(fields)


def node(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["nodes"][0].update(fields)


MALFORMED: dict[str, Callable[[dict[str, Any]], object]] = {
    "no nodes": lambda data: data.pop("nodes"),
    "no output": lambda data: data.pop("output"),
    "no target": lambda data: data.pop("target"),
    "nodes are a number": lambda data: data.update(nodes=3),
    "node is a string": lambda data: data["nodes"].insert(0, "relu"),
    "node without op": lambda data: data["nodes"][0].pop("op"),
    "op is a list": node(op=["int8.quantize"]),
    "op unknown": node(op="aten.from_file.default"),
    "scale NaN": grid(scale=math.nan),
    "scale infinite": grid(scale=math.inf),
    "scale negative": grid(scale=-1.0),
    "scale text": grid(scale="1.0"),
    "scale long": grid(scale=0.1),
    "zero point 256": grid(zero_point=256),
    "zero point fraction": grid(zero_point=1.5),
    "zero point text": grid(zero_point="1"),
    "grid field unknown": grid(bits=4),
    "argument unknown": node(args=[{"code": "import os"}]),
    "argument with two keys": node(args=[{"ref": "x", "tensor": "y"}]),
    "reference dangling": node(args=[{"ref": "nowhere"}]),
    "tensor missing": node(args=[{"tensor": "nowhere"}]),
    "dtype unknown": node(args=[{"dtype": "qint8"}]),
    "memory format unknown": node(args=[{"memory_format": "sparse"}]),
    "input dtype unknown": lambda data: data["inputs"][0].update(dtype="float8"),
    "inputs missing": lambda data: data.update(inputs=[]),
    "layer without weight": lambda data: data["nodes"][1].update(args=data["nodes"][1]["args"][:1]),
    "layer weight is a number": lambda data: data["nodes"][1]["args"].__setitem__(1, 3),
    "layer weight is a reference": lambda data: data["nodes"][1]["args"].__setitem__(1, data["nodes"][1]["args"][0]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_from_json_refuses(name: str) -> None:
    program: Int8Program = converted("conv")
    data = json.loads(json.dumps(to_json(program)))
    from_json(copy.deepcopy(data), program.tensors)  # whole, it is taken
    MALFORMED[name](data)
    with pytest.raises(ProgramError):
        from_json(data, program.tensors)


def test_from_json_says_what_is_malformed() -> None:
    with pytest.raises(ProgramError, match="malformed program: KeyError: 'inputs'"):
        from_json({}, {})
