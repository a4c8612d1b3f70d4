"""Lowering: bind every node of a program to a function of an engine's kernel set.

`Kernels` says what an engine must provide (quantize, dequantize, layers, shape ops) and builds everything else from it:
an element-wise op on integers is `quantize(op(dequantize(q)))`, which short scales make exactly reproducible. An engine
overrides what it has a faster exact kernel for.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.quantization.engines.engine import Int8Model, Step
from qat.quantization.engines.padding import padded_layers
from qat.quantization.engines.reuse import chain_scratch, fits, overwriting, read_once
from qat.quantization.engines.siblings import merge_siblings
from qat.quantization.program.ops import LAYER_OPS, TABLE_OPS
from qat.quantization.program.program import Int8Program, Node, Ref, TensorRef, leaves, map_leaves
from qat.quantization.qparams import QParams

Function = Callable[..., Any]

_SIZES: dict[str, Function] = {
    "size.add": operator.add,
    "size.sub": operator.sub,
    "size.mul": operator.mul,
    "size.floordiv": operator.floordiv,
    "size.truediv": operator.truediv,
    "size.mod": operator.mod,
    "size.neg": operator.neg,
    "size.getitem": operator.getitem,
}

#: float32 -> float32, as (a new tensor, in place).
_UNARY: dict[str, tuple[Function, Function]] = {
    "int8.hardswish": (F.hardswish, lambda x: F.hardswish(x, inplace=True)),
    "int8.hardsigmoid": (F.hardsigmoid, lambda x: F.hardsigmoid(x, inplace=True)),
    "int8.sigmoid": (torch.sigmoid, torch.sigmoid_),
    "int8.silu": (F.silu, lambda x: F.silu(x, inplace=True)),
    "int8.leaky_relu": (F.leaky_relu, lambda x, slope=0.01: F.leaky_relu(x, slope, inplace=True)),
    "int8.clamp": (torch.clamp, torch.clamp_),
}


class Kernels(ABC):
    """An engine's kernels. `q` is the engine's own representation of integers on a grid."""

    #: Whether a linear layer without an output grid takes its input as float and quantizes it inside.
    quantizes_inside = False

    def running(self) -> AbstractContextManager[None]:
        """What must hold while a model of these kernels runs."""
        return nullcontext()

    @abstractmethod
    def quantize(self, grid: QParams) -> Function:
        """float tensor -> q."""

    @abstractmethod
    def dequantize(self, grid: QParams) -> Function:
        """q -> float tensor, exact."""

    @abstractmethod
    def integers(self, q: Any) -> Tensor:
        """q -> uint8 tensor."""

    @abstractmethod
    def from_integers(self, integers: Tensor, grid: QParams) -> Any:
        """uint8 tensor -> q."""

    @abstractmethod
    def layer(self, node: Node, tensors: list[Tensor | None], grid: QParams) -> Function:
        """Convolution or linear layer; `tensors` are weight, weight_scale and bias, `grid` is the input's."""

    @abstractmethod
    def keep_grid(self, op: Function, name: str, grid: QParams) -> Function:
        """A shape or order-preserving ATen op on q."""

    def padded_layer(self, node: Node, pad: Node, tensors: list[Tensor | None], grid: QParams) -> Function | None:
        """A convolution together with the zero padding in front of it; None where an engine gains nothing by it."""
        return None

    def embedding(self, weight: Tensor, scale: Tensor) -> Function:
        """Indices of any shape -> float rows, one dimension more; exact. An index outside the table raises."""
        return lambda indices: F.embedding(indices, weight).to(torch.float32).mul_(scale[indices].unsqueeze(-1))

    def centred(self, grid: QParams) -> Function:
        """q -> q - zero_point as float32: integers whose sums are exact."""
        zero_point = grid.zero_point
        return lambda q: self.integers(q).to(torch.float32).sub_(zero_point)

    def read(self, grid: QParams | None) -> Function:
        """q -> float tensor; float passes through."""
        return _same if grid is None else self.dequantize(grid)

    def write(self, grid: QParams | None) -> Function:
        """float tensor -> q; without a grid it stays float."""
        return _same if grid is None else self.quantize(grid)

    def unary(self, op: str, grid: QParams | None, out: QParams | None, *, scratch: bool) -> Function:
        """An activation; in place where its float input is scratch: freshly dequantized, or read by nothing else."""
        read, function, write = self.read(grid), _UNARY[op][scratch or grid is not None], self.write(out)
        return lambda q, *rest: write(function(read(q), *rest))

    def add(self, a: QParams, b: QParams, out: QParams) -> Function:
        da, db, quantize = self.dequantize(a), self.dequantize(b), self.quantize(out)
        return lambda x, y: quantize(da(x) + db(y))

    def mul(self, a: QParams | None, b: QParams | None, out: QParams | None, *, scratch: bool) -> Function:
        """A product, broadcast; into the first factor where that is scratch and has the result's shape."""
        read_a, read_b, write = self.read(a), self.read(b), self.write(out)
        reuse = scratch or a is not None

        def mul(x: Any, y: Any) -> Any:
            x, y = read_a(x), read_b(y)
            return write(x.mul_(y) if reuse and fits(x, y) else x * y)

        return mul

    def cat(self, grids: list[QParams], out: QParams) -> Function:
        dequantizes, quantize = [self.dequantize(grid) for grid in grids], self.quantize(out)
        return lambda qs, dim=0: quantize(torch.cat([d(q) for d, q in zip(dequantizes, qs, strict=True)], dim))

    def mean(self, grid: QParams | None, out: QParams | None) -> Function:
        """(sum q - n z) * (scale / n) over n = height * width pixels; from float, the plain mean.

        The integer sums are exact in float32 up to 65,000 pixels, whatever the order of addition.
        """
        write = self.write(out)
        if grid is None:
            return lambda x, dims, keepdim=False: write(x.mean(dims, keepdim))
        scale, zero_point = grid.scale, grid.zero_point

        def mean(q: Any, dims: list[int], keepdim: bool = False) -> Any:
            x = self.integers(q).to(torch.float32)
            count = x.shape[-1] * x.shape[-2]
            return write(x.sum(dims, keepdim).sub_(count * zero_point).mul_(scale / count))

        return mean

    def adaptive_avg_pool2d(self, grid: QParams | None, out: QParams | None) -> Function:
        mean, pool = self.mean(grid, out), self.pool(F.adaptive_avg_pool2d, grid, out)
        return lambda q, size: mean(q, [2, 3], True) if size in (1, [1], [1, 1], (1, 1)) else pool(q, size)

    def avg_pool2d(self, grid: QParams | None, out: QParams | None) -> Function:
        return self.pool(torch.ops.aten.avg_pool2d, grid, out)

    def pool(self, function: Function, grid: QParams | None, out: QParams | None) -> Function:
        """A windowed mean: of exact integers, scaled once, or of float."""
        write = self.write(out)
        if grid is None:
            return lambda x, *rest: write(function(x, *rest))
        centred, scale = self.centred(grid), grid.scale
        return lambda q, *rest: write(function(centred(q), *rest).mul_(scale))


def _same(value: Any) -> Any:
    return value


def lower(program: Int8Program, kernels: Kernels, *, engine: str) -> Int8Model:
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
    bound = _alive(bound, {leaf.name for leaf in leaves(program.output)})
    for node, _, _ in bound:
        slots[node.name] = len(slots)
    steps = _steps(bound, slots, {leaf.name for leaf in leaves(program.output)})
    return Int8Model(original, kernels, engine=engine, steps=steps, slots=slots)


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
        function = _SIZES[node.op]
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
    if node.op in _UNARY:
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


def _flat(args: tuple[Any, ...]) -> bool:
    return all(isinstance(arg, Ref) for arg in args)


def _closed(function: Function, args: tuple[Any, ...], kwargs: Any, program: Int8Program) -> tuple[Function, list[str]]:
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

    def call(*values: Any) -> Any:
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
