"""Convert: prepared model -> `Int8Program`.

The program computes on integers what the prepared model simulates in float: weights become int8 with the scales that
fake quantization used in its last step, activations carry their grid, and what depends on parameters alone is computed once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from qat.errors import ConvertError
from qat.quantization.arguments import IGNORED, convolution_settings, map_nodes
from qat.quantization.fake_quantize import StoredFakeQuantize
from qat.quantization.graph.dropout import Dropout
from qat.quantization.graph.nodes import (
    GraphNode,
    argument,
    constants,
    fx_value,
    layer_name,
    ordered_kwargs,
    quantized_tensor,
    stored_name,
)
from qat.quantization.kernel_table import Kernel, Role
from qat.quantization.placement import inputs_on_grid
from qat.quantization.prepared import PreparedModel
from qat.quantization.program.ops import ATEN_OPS, LAYER_OPS, SIZES
from qat.quantization.program.program import Int8Program, Node, Ref, TensorRef
from qat.quantization.program.prune import alive, plain
from qat.quantization.qparams import QParams

_SIZE_OPS = {function: name for name, function in SIZES.items()}


def convert(prepared: PreparedModel) -> Int8Program:
    """Turn a calibrated or trained model into an INT8 program; `prepared` is left alone.

    Raises:
        CalibrationError: a tensor has no finite range; the message names it.
        ConvertError: the model holds something a program cannot.
    """
    builder = Builder(prepared, prepared.grids())
    with torch.no_grad():
        for node in prepared.network.graph.nodes:
            builder.visit(node)
    program = builder.finish()
    if not any(True for _ in program.layers()):
        raise ConvertError("no layer became INT8; the whole model is still float")
    return program


class Builder:
    """Walks the prepared graph once and writes program nodes.

    Args:
        grids: of every activation on a grid, by the name of its tensor.
    """

    def __init__(self, prepared: PreparedModel, grids: Mapping[str, QParams]) -> None:
        self.prepared = prepared
        self.network = prepared.network
        self.placement = prepared.placement
        self.grids = grids
        self.fixed = constants(self.network.graph)
        self.nodes: dict[str, Node] = {}
        self.tensors: dict[str, Tensor] = {}
        self.values: dict[str, Any] = {}  # constants computed here, by node name
        self.integers: dict[str, Ref] = {}  # graph node -> its value on a grid
        self.floats: dict[str, Ref] = {}  # graph node -> its float (or size) value
        self.output: object = None

    def visit(self, node: GraphNode) -> None:
        if node.op == "placeholder":
            self.floats[node.name] = Ref(node.name)
        elif node.op == "output":
            self.output = plain(map_nodes(node.args[0], self._result))
        elif node.op == "call_module" and self._drops(node):
            self._alias(node, node.args[0].name)
        elif node.op == "call_module":
            self._visit_fake_quantize(node)
        elif node.name in self.fixed:
            self.values[node.name] = self._constant(node)
        elif node.target is torch.ops.aten.detach.default:  # matters to training alone
            self._alias(node, node.args[0].name)
        elif node.name in self.placement.absorbed:
            self._alias(node, self.placement.absorbed[node.name])
        elif node.name in self.placement.kernels:
            self._kernel(node, self.placement.kernels[node.name])
        else:
            self._aten(node, self._float)

    def finish(self) -> Int8Program:
        nodes, tensors = alive(list(self.nodes.values()), self.output, self.tensors)
        return Int8Program(
            inputs=self.prepared.inputs,
            nodes=tuple(nodes),
            output=self.output,
            tensors=tensors,
            target=self.prepared.target,
        )

    def _visit_fake_quantize(self, node: GraphNode) -> None:
        """A fake_quantize adds nothing to an integer tensor, and is a quantize of a float one."""
        source = quantized_tensor(node)
        module = self.network.get_submodule(str(node.target))
        if isinstance(module, StoredFakeQuantize):
            if module.behind_lookup:  # the kernel looks the rounded row up
                self._alias(node, source.name)
            return
        if source.name not in self.integers:
            name, grid = f"{source.name}_quantized", self.grids[source.name]
            self.integers[source.name] = self._emit(name, "int8.quantize", (self._float(source),), node=source, grid=grid)
        self._alias(node, source.name)

    def _drops(self, node: GraphNode) -> bool:
        return isinstance(self.network.get_submodule(node.target), Dropout)

    def _alias(self, node: GraphNode, source: str) -> None:
        if source in self.integers:
            self.integers[node.name] = self.integers[source]
        if source in self.floats:
            self.floats[node.name] = self.floats[source]

    def _kernel(self, node: GraphNode, kernel: Kernel) -> None:
        if kernel.role is Role.PASS:
            self._pass(node, kernel)
            return
        if kernel.role is Role.LOOKUP:
            self._lookup(node, kernel)
            return
        assert kernel.program_op is not None
        grid = self.grids.get(self._owner(node)) if node.name in self.placement.integers else None
        if kernel.program_op in LAYER_OPS:
            args: tuple[object, ...] = self._layer_args(node)
        else:
            takes = {source.name for source in inputs_on_grid(node, kernel)} & self.integers.keys()
            args = tuple(
                map_nodes(arg, lambda n: self.integers[n.name] if n.name in takes else self._float(n))
                for arg in (*node.args, *ordered_kwargs(node))
            )
        ref = self._emit(node.name, kernel.program_op, args, node=node, grid=grid)
        (self.integers if grid is not None else self.floats)[node.name] = ref

    def _pass(self, node: GraphNode, kernel: Kernel) -> None:
        """A shape op on integers keeps its ATen name and its input's grid."""
        source = inputs_on_grid(node, kernel)[0]
        self._aten(node, lambda n: self.integers[n.name] if n is source else self._float(n), self._grid_of(source))

    def _lookup(self, node: GraphNode, kernel: Kernel) -> None:
        """Rows of a table by index: (indices, table, scale per row) -> float."""
        assert kernel.program_op is not None
        table, indices = node.args[:2]
        quantizer = next(user for user in node.users if user.op == "call_module" and not self._drops(user))
        args = (self._float(indices), *self._stored(quantizer, table))
        self.floats[node.name] = self._emit(node.name, kernel.program_op, args, node=node)

    def _stored(self, quantizer: GraphNode, weight: GraphNode) -> tuple[TensorRef, TensorRef]:
        """A weight as int8 with its scales, under the name that the model gives it."""
        module = self.network.get_submodule(quantizer.target)
        assert isinstance(module, StoredFakeQuantize)
        integers, scale = module.quantize(self.values[weight.name])
        name = stored_name(weight)
        return self._tensor(name, integers.contiguous()), self._tensor(f"{name}_scale", scale)

    def _layer_args(self, node: GraphNode) -> tuple[object, ...]:
        x, fake = node.args[:2]
        bias: Any = argument(node, 2, "bias")
        parts = (
            *self._stored(fake, fake.args[0]),
            self._tensor(stored_name(bias), self.values[bias.name].float()) if bias is not None else None,
        )
        if node.target is torch.ops.aten.linear.default:
            return (self.integers[x.name], *parts)
        return (self.integers[x.name], *parts, *convolution_settings(node, self.values[fake.args[0].name].dim() - 2))

    def _aten(self, node: GraphNode, resolve: Any, grid: QParams | None = None) -> None:
        op = _SIZE_OPS.get(node.target) or str(node.target)
        if op not in ATEN_OPS and op not in _SIZE_OPS.values():
            raise ConvertError(
                f"{op} in layer {layer_name(node) or '(model)'!r} is no op that an INT8 program may hold. Write that part of "
                "the model in other ops, or leave it outside: prepare what stands before it and what stands behind it."
            )
        args = map_nodes(node.args, resolve)
        kwargs = {key: value for key, value in map_nodes(node.kwargs, resolve).items() if key not in IGNORED}
        ref = self._emit(node.name, op, tuple(args), node=node, grid=grid, kwargs=kwargs)
        (self.floats if grid is None else self.integers)[node.name] = ref

    def _constant(self, node: GraphNode) -> object:
        if node.op == "get_attr":
            return fx_value(self.network, node).detach().cpu()
        args, kwargs = map_nodes((node.args, node.kwargs), lambda n: self.values[n.name])
        kwargs = {k: torch.device("cpu") if isinstance(v, torch.device) else v for k, v in kwargs.items()}
        return node.target(*args, **kwargs)

    def _result(self, node: GraphNode) -> object:
        """A value that the model returns; a stored tensor comes out of a node like all others."""
        value = self._float(node)
        if isinstance(value, TensorRef):
            return self._emit(f"{node.name}_constant", "aten.clone.default", (value,), node=node)
        return value

    def _float(self, node: GraphNode) -> object:
        """The float (or size) value of a graph node; dequantized, once, when it lives on a grid."""
        if node.name in self.values:
            value = self.values[node.name]
            return self._tensor(node.name, value) if isinstance(value, Tensor) else value
        if node.name not in self.floats:
            name = f"{node.name}_dequantized"
            self.floats[node.name] = self._emit(name, "int8.dequantize", (self.integers[node.name],), node=node)
        return self.floats[node.name]

    def _owner(self, node: GraphNode) -> str:
        """The tensor that carries the fake_quantize of a kernel's output: its activation's, or its own."""
        return next((a for a, source in self.placement.absorbed.items() if source == node.name), node.name)

    def _grid_of(self, node: GraphNode) -> QParams:
        grid = self.nodes[self.integers[node.name].name].grid
        assert grid is not None
        return grid

    def _tensor(self, name: str, value: Tensor) -> TensorRef:
        """Store a tensor once, whatever number of nodes reads it."""
        value = value.detach().cpu().contiguous()
        while name in self.tensors and not (self.tensors[name].dtype == value.dtype and torch.equal(self.tensors[name], value)):
            name += "_"
        self.tensors[name] = value
        return TensorRef(name)

    def _emit(
        self,
        name: str,
        op: str,
        args: tuple[object, ...],
        *,
        node: GraphNode,
        grid: QParams | None = None,
        kwargs: dict[str, object] | None = None,
    ) -> Ref:
        args, kwargs = plain(args), plain(kwargs or {})
        self.nodes[name] = Node(name=name, op=op, args=args, kwargs=kwargs, grid=grid, layer=layer_name(node))
        return Ref(name)
