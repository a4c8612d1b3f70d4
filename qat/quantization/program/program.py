"""Int8Program: what is deployed, as data. Nodes, tensors, inputs, output; no code, no kernels, no quantized dtypes.

A node is one op of the allowlist with its arguments. Its `grid` says that its value is integers on that grid; without one
the value is float (or a size). Ops named `int8.*` are integer kernels and mean, in exact arithmetic:

    int8.quantize(x)                 q = clamp(round(x / scale) + zero_point, 0, 255)          float -> grid
    int8.dequantize(q)               (q - zero_point) * scale                                  grid -> float
    int8.conv1d / conv2d / linear    acc = sum (q_x - z_x) q_w in int32; then, in float32,
                                     q = clamp(round((acc + b / (s_x s_w)) * (s_x s_w / s_y)) + z_y, 0, 255),
                                     or without a grid: acc * (s_x s_w) + b, rounded once
    int8.embedding(i)                q[i] * s[i], one scale per row                           indices -> float
    int8.add, cat                    quantize(op(dequantize(q), ...)) in float32
    int8.mul, silu, sigmoid, ...     the same; an input may be float already, and without a grid the output stays float
    int8.mean, *_avg_pool2d          exact integer sums, then one scaling and one rounding; plain float from float

An `aten.*` op whose input is on a grid keeps it (pooling by maximum, shape ops); any other `aten.*` op computes in float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from qat.errors import ProgramError, near
from qat.quantization.graph.calls import InputSpec
from qat.quantization.program.ops import ALLOWED_OPS, CHAIN_OPS, LAYER_OPS, TABLE_OPS
from qat.quantization.qparams import QParams


@dataclass(frozen=True)
class Ref:
    """The value of an earlier node or input."""

    name: str


@dataclass(frozen=True)
class TensorRef:
    """A stored tensor."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Node:
    """One op of a program.

    Args:
        name: unique.
        op: from `ALLOWED_OPS`.
        args, kwargs: nested tuples of `Ref`, `TensorRef`, numbers, bools, strings, None, dtypes and memory formats.
        grid: the output's grid; None for a float value.
        layer: dotted name of the model's layer it comes from, for reports.
    """

    name: str
    op: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, object] = field(default_factory=dict)
    grid: QParams | None = None
    layer: str = ""


@dataclass(frozen=True, kw_only=True)
class Int8Program:
    """A deployable network. Constructing one validates it.

    Args:
        inputs: the tensors it takes.
        nodes: in execution order.
        output: nested tuple, list or dict of `Ref`, beside numbers and None.
        tensors: plain int8, uint8, float32, int64 and bool tensors by name.
        target: what it was made for, see `targets.py`; information, no permission.
    """

    inputs: tuple[InputSpec, ...]
    nodes: tuple[Node, ...]
    output: object
    tensors: Mapping[str, Tensor]
    target: str

    def __post_init__(self) -> None:
        known: dict[str, QParams | None] = {spec.name: None for spec in self.inputs}
        used: set[str] = set()
        for node in self.nodes:
            if node.op not in ALLOWED_OPS:
                raise ProgramError(f"node {node.name!r}: op {node.op!r} is not allowed in a program.{_near_op(node.op)}")
            if node.name in known:
                raise ProgramError(f"node name {node.name!r} is used twice")
            for leaf in leaves((node.args, tuple(node.kwargs.values()))):
                if isinstance(leaf, Ref) and leaf.name not in known:
                    raise ProgramError(f"node {node.name!r} refers to {leaf.name!r}, which is not defined before it")
                if isinstance(leaf, TensorRef):
                    used.add(leaf.name)
                    if leaf.name not in self.tensors:
                        raise ProgramError(f"node {node.name!r} needs tensor {leaf.name!r}, which is missing")
            self._check_layer(node)
            _check_grids(node, known)
            known[node.name] = node.grid
        for leaf in leaves(self.output):
            fits = leaf.name in known if isinstance(leaf, Ref) else isinstance(leaf, bool | int | float | str | type(None))
            if not fits:
                raise ProgramError(f"the output refers to {leaf!r}, which is no node of the program")
        if extra := sorted(set(self.tensors) - used):
            raise ProgramError(f"tensors that no node uses: {', '.join(extra[:5])}")

    def _check_layer(self, node: Node) -> None:
        """Shapes and dtypes that a kernel would otherwise read past."""
        if node.op not in (*LAYER_OPS, *TABLE_OPS):
            return
        weight, scale = (self.tensors[ref.name] for ref in node.args[1:3])
        bias = self.tensors[node.args[3].name] if node.args[3:] and node.args[3] is not None else None
        if node.op in TABLE_OPS and weight.dim() != 2:
            raise ProgramError(f"node {node.name!r}: a table has two dimensions, got {tuple(weight.shape)}")
        if weight.dtype != torch.int8 or scale.dtype != torch.float32 or scale.shape != weight.shape[:1]:
            raise ProgramError(
                f"node {node.name!r}: weight must be int8 of shape (C, ...) and its scale float32 of shape (C,), got "
                f"{weight.dtype} {tuple(weight.shape)} and {scale.dtype} {tuple(scale.shape)}"
            )
        if bias is not None and (bias.dtype != torch.float32 or bias.shape != scale.shape):
            raise ProgramError(f"node {node.name!r}: bias must be float32 of shape {tuple(scale.shape)}")
        if not bool((scale > 0).all() and torch.isfinite(scale).all()):
            raise ProgramError(f"node {node.name!r}: weight scales must be finite and positive")

    def grids(self) -> dict[str, QParams]:
        """Name -> grid of every value that is integers."""
        return {node.name: node.grid for node in self.nodes if node.grid is not None}

    def results(self) -> set[str]:
        """Names of the values that it returns."""
        return {leaf.name for leaf in leaves(self.output) if isinstance(leaf, Ref)}

    def layers(self) -> Iterator[Node]:
        """The convolutions and linear layers that run as integers."""
        return (node for node in self.nodes if node.op in LAYER_OPS)


def _check_grids(node: Node, known: Mapping[str, QParams | None]) -> None:
    """An int8 op takes integers, an aten op keeps the grid of its input, and only what is on a grid is dequantized."""
    data = node.args[:2] if node.op in ("int8.add", "int8.mul") else node.args[:1]
    takes = [known[leaf.name] if isinstance(leaf, Ref) else None for leaf in leaves(data)]
    if node.op == "int8.quantize":
        fits = takes == [None] and node.grid is not None
    elif node.op == "int8.dequantize":
        fits = len(takes) == 1 and takes[0] is not None and node.grid is None
    elif node.op in TABLE_OPS:
        fits = takes == [None] and node.grid is None
    elif node.op in CHAIN_OPS:
        fits = bool(takes) and all(isinstance(leaf, Ref) for leaf in leaves(data))
    elif node.op.startswith("int8."):
        fits = bool(takes) and None not in takes and (node.grid is not None or node.op == "int8.linear")
    else:
        fits = node.grid == next((grid for grid in takes if grid is not None), None)
    if not fits:
        raise ProgramError(f"node {node.name!r}: {node.op} does not fit the grids of its inputs and output")


def leaves(value: object) -> Iterator[Any]:
    """The scalars, references and dtypes inside nested tuples, lists and dicts."""
    if isinstance(value, tuple | list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    else:
        yield value


def map_leaves(value: object, function: Callable[[Any], object]) -> Any:
    """`value` with `function` applied to each leaf; containers keep their kind."""
    if isinstance(value, tuple):
        return tuple(map_leaves(item, function) for item in value)
    if isinstance(value, list):
        return [map_leaves(item, function) for item in value]
    if isinstance(value, Mapping):
        return {key: map_leaves(item, function) for key, item in value.items()}
    return function(value)


def _near_op(op: str) -> str:
    return near(op, ALLOWED_OPS).split(" Allowed:")[0]
