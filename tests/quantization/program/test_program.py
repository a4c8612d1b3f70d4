"""Int8Program: constructing one checks it, so nothing malformed is ever lowered."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from qat.errors import ProgramError
from qat.quantization.program.program import Int8Program, Node, Ref, TensorRef, leaves, map_leaves
from qat.quantization.qparams import QParams
from tests.quantization.networks import CASES, converted


def small() -> Int8Program:
    return converted("conv")


def changed(index: int, **fields: Any) -> Callable[[Int8Program], dict[str, Any]]:
    """Fields of a program in which one node is changed."""

    def change(program: Int8Program) -> dict[str, Any]:
        nodes = list(program.nodes)
        nodes[index] = dataclasses.replace(nodes[index], **fields)
        return {"nodes": tuple(nodes)}

    return change


POSITIONS = {"weight": 1, "weight_scale": 2, "bias": 3}


def with_tensor(suffix: str, function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Int8Program], dict[str, Any]]:
    """Fields of a program in which one tensor of the first convolution is changed."""

    def change(program: Int8Program) -> dict[str, Any]:
        name = next(program.layers()).args[POSITIONS[suffix]].name
        return {"tensors": {**program.tensors, name: function(program.tensors[name])}}

    return change


def poisoned(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def poison(scale: torch.Tensor) -> torch.Tensor:
        scale = scale.clone()
        scale[1] = value
        return scale

    return poison


BROKEN: dict[str, tuple[Callable[[Int8Program], dict[str, Any]], str]] = {
    "unknown op": (changed(0, op="int8.quantise"), r"'int8.quantise' is not allowed.*Did you mean 'int8.quantize'"),
    "op that opens files": (changed(0, op="aten.from_file.default"), "not allowed"),
    "in-place op": (changed(0, op="aten.relu_.default"), "not allowed"),
    "python builtin": (changed(0, op="builtins.eval"), "not allowed"),
    "dangling reference": (changed(1, args=(Ref("nowhere"),)), "refers to 'nowhere', which is not defined before it"),
    "reference to itself": (lambda p: changed(0, args=(Ref(p.nodes[0].name),))(p), "not defined before it"),
    "reference in kwargs": (changed(-1, kwargs={"a": [Ref("nowhere")]}), "'nowhere'"),
    "reference forward": (lambda p: {"nodes": (p.nodes[1], p.nodes[0], *p.nodes[2:])}, "not defined before it"),
    "name twice": (lambda p: {"nodes": (*p.nodes, p.nodes[-1])}, "used twice"),
    "name of an input": (lambda p: changed(0, name=p.inputs[0].name)(p), "used twice"),
    "missing tensor": (lambda p: {"tensors": dict(list(p.tensors.items())[1:])}, "which is missing"),
    "extra tensor": (lambda p: {"tensors": {**p.tensors, "spare": torch.ones(1)}}, "no node uses: spare"),
    "output dangling": (lambda p: {"output": (Ref("nowhere"),)}, "output refers to"),
    "output of a type": (lambda p: {"output": torch.float32}, "output refers to"),
    "output tensor": (lambda p: {"output": TensorRef(next(iter(p.tensors)))}, "output refers to"),
    "quantize without a grid": (changed(0, grid=None), "does not fit"),
    "quantize of integers": (lambda p: changed(1, op="int8.quantize", args=(Ref(p.nodes[0].name),))(p), "does not fit"),
    "dequantize of floats": (lambda p: changed(0, op="int8.dequantize", grid=None)(p), "does not fit"),
    "layer on floats": (lambda p: changed(1, args=(Ref(p.inputs[0].name), *p.nodes[1].args[1:]))(p), "does not fit"),
    "convolution without a grid": (changed(1, grid=None), "does not fit"),
    "addition of a number": (lambda p: changed(1, op="int8.add", args=(Ref(p.nodes[0].name), 3))(p), "does not fit"),
    "shape op on another grid": (changed(-2, grid=QParams(scale=0.5, zero_point=7)), "does not fit"),
    "shape op that loses its grid": (changed(-2, grid=None), "does not fit"),
    "weight dtype": (with_tensor("weight", lambda t: t.float()), "weight must be int8"),
    "weight uint8": (with_tensor("weight", lambda t: t.to(torch.uint8)), "weight must be int8"),
    "scale dtype": (with_tensor("weight_scale", lambda t: t.double()), "scale float32"),
    "scale short": (with_tensor("weight_scale", lambda t: t[:-1]), "scale float32 of shape"),
    "scale per tensor": (with_tensor("weight_scale", lambda t: t[0]), "scale float32 of shape"),
    "scale NaN": (with_tensor("weight_scale", poisoned(math.nan)), "finite and positive"),
    "scale infinite": (with_tensor("weight_scale", poisoned(math.inf)), "finite and positive"),
    "scale zero": (with_tensor("weight_scale", poisoned(0.0)), "finite and positive"),
    "scale negative": (with_tensor("weight_scale", poisoned(-0.1)), "finite and positive"),
    "bias long": (with_tensor("bias", lambda t: torch.cat([t, t])), "bias must be float32"),
    "bias dtype": (with_tensor("bias", lambda t: t.to(torch.int32)), "bias must be float32"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_program_refuses(name: str) -> None:
    change, words = BROKEN[name]
    program = small()
    with pytest.raises(ProgramError, match=words):
        dataclasses.replace(program, **change(program))


def test_program_takes_what_it_refused_when_it_is_whole() -> None:
    assert dataclasses.replace(small(), tensors=dict(small().tensors)).nodes == small().nodes


def test_program_lists_its_layers_and_grids() -> None:
    for name in CASES:
        program = converted(name)
        assert list(program.layers())
        assert program.grids() == {node.name: node.grid for node in program.nodes if node.grid}


def test_program_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        small().nodes = ()  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        small().nodes[0].op = "x"  # type: ignore[misc]


def test_leaves_and_map_leaves_agree() -> None:
    value = (Ref("a"), [1, {"k": (None, TensorRef("t"))}], ())
    assert list(leaves(value)) == [Ref("a"), 1, None, TensorRef("t")]
    assert map_leaves(value, lambda leaf: leaf) == value
    assert list(leaves(map_leaves(value, repr))) == [repr(leaf) for leaf in leaves(value)]


def test_node_keeps_what_it_was_given() -> None:
    node = Node(name="n", op="aten.relu.default", args=(Ref("x"),))
    assert (node.kwargs, node.grid, node.layer) == ({}, None, "")
