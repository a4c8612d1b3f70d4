"""Lowering: bind every node of a program to a function of an engine's kernel set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from qat.quantization.engines.kernels import Function, Kernels
from qat.quantization.engines.padding import padded_layers
from qat.quantization.engines.reuse import chain_scratch, overwriting, read_once
from qat.quantization.engines.siblings import merge_siblings
from qat.quantization.engines.steps import Step, StepModel
from qat.quantization.program.ops import ELEMENTWISE, LAYER_OPS, SIZES, TABLE_OPS
from qat.quantization.program.program import Int8Program, Node, Ref, TensorRef, leaves, map_leaves
from qat.quantization.qparams import QParams


def bind_steps(program: Int8Program, kernels: Kernels, *, engine: str) -> StepModel:
    """Bind every node of `program`; pure bookkeeping, no numbers are computed here except weight packing."""
    original, program = program, merge_siblings(program)
    grids = program.grids()
    by_name = {node.name: node for node in program.nodes}
    slots = {spec.name: i for i, spec in enumerate(program.inputs)}
    scratch, own, padded = chain_scratch(program), read_once(program), padded_layers(program)
    bound: list[tuple[Node, Function, list[str]]] = []
    for node in program.nodes:
        args = node.args
        if node.op == "int8.linear" and node.grid is None and kernels.quantizes_inside:
            source = by_name.get(args[0].name)
            if source is not None and source.op == "int8.quantize":
                args = (source.args[0], *args[1:])  # the kernel quantizes this float tensor itself
        together = _bind_padded(node, padded.get(node.name), kernels, program, grids)
        function, runtime = together or _bind(node, args, kernels, program, grids, scratch.get(node.name, set()))
        function = overwriting(node, function, own)
        bound.append((node, function, runtime))
    bound = _alive(bound, program.results())
    for node, _, _ in bound:
        slots[node.name] = len(slots)
    steps = _steps(bound, slots, program.results())
    return StepModel(original, kernels, engine=engine, steps=steps, slots=slots)


def _bind_padded(
    node: Node, pad: Node | None, kernels: Kernels, program: Int8Program, grids: dict[str, QParams]
) -> tuple[Function, list[str]] | None:
    """A convolution that pads by itself, reading what its padding would read; the padding is then read by nothing."""
    if pad is None:
        return None
    tensors = [None if ref is None else program.tensors[ref.name] for ref in node.args[1:4]]
    function = kernels.padded_layer(node, pad, tensors, grids[pad.name])
    return None if function is None else (function, [pad.args[0].name])


def _bind(
    node: Node,
    args: tuple[Any, ...],
    kernels: Kernels,
    program: Int8Program,
    grids: dict[str, QParams],
    scratch: set[str],
) -> tuple[Function, list[str]]:
    """The function of a node and the names of the values it is called with."""
    on_grid = [leaf.name for leaf in leaves(args) if isinstance(leaf, Ref) and leaf.name in grids]
    if node.op in LAYER_OPS:
        tensors = [None if ref is None else program.tensors[ref.name] for ref in args[1:4]]
        source = node.args[0].name
        return kernels.layer(node, tensors, grids[source]), [args[0].name]
    if node.op in TABLE_OPS:
        return kernels.embedding(*(program.tensors[ref.name] for ref in args[1:3])), [args[0].name]
    if node.op.startswith("int8."):
        function = _int8(node, kernels, grids, scratch)
    elif node.op.startswith("size."):
        function = SIZES[node.op]
    else:
        function = aten_op(node.op)
        if on_grid:
            function = kernels.keep_grid(function, node.op, grids[on_grid[0]])
    if node.op == "size.getitem" or (node.op.startswith("aten.") and not node.kwargs and _flat(args)):
        return _closed(function, args, {}, program)
    return _closed(function, args, node.kwargs, program)


def _int8(node: Node, kernels: Kernels, grids: dict[str, QParams], scratch: set[str]) -> Function:
    """The function of an integer op that is no layer."""
    names = [leaf.name for leaf in leaves(node.args) if isinstance(leaf, Ref)]
    inputs, out = [grids.get(name) for name in names], node.grid
    if node.op == "int8.dequantize":
        return kernels.read(inputs[0])
    if node.op == "int8.quantize":
        return kernels.write(out)
    if node.op in ELEMENTWISE:
        return kernels.unary(node.op, inputs[0], out, scratch=names[0] in scratch)
    if node.op == "int8.mul":
        return kernels.mul(inputs[0], inputs[1], out, scratch=names[0] in scratch)
    if node.op in ("int8.mean", "int8.adaptive_avg_pool2d", "int8.avg_pool2d"):
        function: Function = getattr(kernels, node.op.removeprefix("int8."))(inputs[0], out)
        return function
    known = [grid for grid in inputs if grid is not None]
    assert out is not None
    if node.op == "int8.cat":
        return kernels.cat(known, out)
    a, b = (grids[arg.name] for arg in node.args[:2])
    return kernels.add(a, b, out)


def aten_op(op: str) -> Function:
    """`torch.ops.aten.relu.default` for "aten.relu.default"; the name was checked against the allowlist."""
    _, name, overload = op.split(".")
    function: Function = getattr(getattr(torch.ops.aten, name), overload)
    return function


def _flat(args: tuple[object, ...]) -> bool:
    return all(isinstance(arg, Ref) for arg in args)


def _closed(
    function: Function, args: tuple[object, ...], kwargs: Mapping[str, object], program: Int8Program
) -> tuple[Function, list[str]]:
    """Close `function` over the constant arguments; what is left are the references, in order."""
    names = list(dict.fromkeys(leaf.name for leaf in leaves((args, tuple(kwargs.values()))) if isinstance(leaf, Ref)))
    if _flat(args) and not kwargs and len(names) == len(args):
        return function, names
    if args and isinstance(args[0], Ref) and len(names) == 1 and not kwargs:
        rest = map_leaves(args[1:], lambda leaf: program.tensors[leaf.name] if isinstance(leaf, TensorRef) else leaf)
        if not any(isinstance(leaf, Ref) for leaf in leaves(rest)):
            return (lambda x: function(x, *rest)), names
    index = {name: i for i, name in enumerate(names)}
    fixed = map_leaves((args, dict(kwargs)), lambda leaf: program.tensors[leaf.name] if isinstance(leaf, TensorRef) else leaf)

    def call(*values: object) -> object:
        full, named = map_leaves(fixed, lambda leaf: values[index[leaf.name]] if isinstance(leaf, Ref) else leaf)
        return function(*full, **named)

    return call, names


def _alive(bound: list[tuple[Node, Function, list[str]]], needed: set[str]) -> list[tuple[Node, Function, list[str]]]:
    kept = []
    needed = set(needed)
    for node, function, runtime in reversed(bound):
        if node.name in needed:
            needed.update(runtime)
            kept.append((node, function, runtime))
    return kept[::-1]


def _steps(bound: list[tuple[Node, Function, list[str]]], slots: dict[str, int], keep: set[str]) -> list[Step]:
    """Slots are freed after their last use, so that big temporaries do not pile up."""
    last: dict[str, int] = {}
    for i, (_, _, runtime) in enumerate(bound):
        last.update(dict.fromkeys(runtime, i))
    return [
        Step(
            name=node.name,
            function=function,
            sources=tuple(slots[name] for name in runtime),
            target=slots[node.name],
            dead=tuple(slots[name] for name in dict.fromkeys(runtime) if last[name] == i and name not in keep),
        )
        for i, (node, function, runtime) in enumerate(bound)
    ]
