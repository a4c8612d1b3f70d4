"""Sibling linear layers: merged where that changes nothing, left alone where it would."""

from __future__ import annotations

import torch

from qat.quantization.engines.reference import Reference
from qat.quantization.engines.siblings import merge_siblings
from qat.quantization.layouts import ChannelsLast
from qat.quantization.program.program import Int8Program, Ref
from tests.quantization.programs import Writer, extreme_input, extreme_weight, grid


def _program(biases: tuple[bool, ...], *, grids: tuple[bool, ...] | None = None) -> Int8Program:
    """One quantized input and a linear layer per entry: with or without bias, returning a grid or float."""
    writer = Writer((5, 12))
    q = writer.quantized()
    outputs = []
    for i, bias in enumerate(biases):
        weight = extreme_weight((7 + i, 12), [ChannelsLast()], seed=i)
        on_grid = grids is not None and grids[i]
        y = writer.layer(
            "int8.linear",
            q,
            weight,
            torch.full((7 + i,), 2.0**-8),
            torch.randn(7 + i) if bias else None,
            grid=grid(0.5, 100) if on_grid else None,
        )
        outputs.append(writer.add("int8.dequantize", y) if on_grid else y)
    return writer.finish(tuple(outputs))


def test_siblings_become_one_layer_with_the_same_numbers() -> None:
    for biases in ((True, True, True), (False, False), (True, False, True)):
        program = _program(biases)
        merged = merge_siblings(program)
        (layer,) = merged.layers()
        assert merged.tensors[layer.args[1].name].shape[0] == sum(7 + i for i in range(len(biases)))
        assert (layer.args[3] is None) == (not any(biases))
        x = extreme_input((3, 5, 12))
        # lowering merges as well, so the parts are computed one by one here
        parts = [_alone(program, i)(x) for i in range(len(biases))]
        for got, expected in zip(Reference().bind(program)(x), parts, strict=True):
            assert torch.equal(got, expected)


def _alone(program: Int8Program, index: int) -> torch.nn.Module:
    """The program with one of its layers only, which has no sibling."""
    layers = list(program.layers())
    nodes = tuple(node for node in program.nodes if node not in layers or node is layers[index])
    used = {ref.name for ref in layers[index].args[1:] if ref is not None}
    return Reference().bind(
        Int8Program(
            inputs=program.inputs,
            nodes=nodes,
            output=Ref(layers[index].name),
            tensors={name: value for name, value in program.tensors.items() if name in used},
            target=program.target,
        )
    )


def test_every_name_of_the_program_stays() -> None:
    program = _program((True, True))
    assert {node.name for node in program.nodes} <= {node.name for node in merge_siblings(program).nodes}


def test_layers_with_an_output_grid_stay_apart() -> None:
    program = _program((True, True, True), grids=(True, True, False))
    assert merge_siblings(program) is program


def test_layers_of_different_inputs_stay_apart() -> None:
    writer = Writer((12,), (12,))
    outputs = [
        writer.layer(
            "int8.linear",
            writer.quantized(i),
            extreme_weight((7, 12), [ChannelsLast()], seed=i),
            torch.full((7,), 2.0**-8),
            None,
            grid=None,
        )
        for i in range(2)
    ]
    program = writer.finish(tuple(outputs))
    assert merge_siblings(program) is program
