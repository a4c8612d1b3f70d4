"""Coverage: how much of the network runs as integers, and why the rest does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from qat.quantization.graph.nodes import constants, layer_name
from qat.quantization.prepared import PreparedModel

_PRODUCTS = ("aten.matmul", "aten.bmm", "aten.mm", "aten.baddbmm", "aten.addmm")

#: Recurrent layers, and where their weights stand.
_RECURRENT = {"aten.lstm.input": 2, "aten.gru.input": 2, "aten.rnn_tanh.input": 2, "aten.rnn_relu.input": 2}


@dataclass(frozen=True, kw_only=True)
class FloatOp:
    """An op that computes in float between a dequantize and a quantize."""

    op: str
    node: str
    layer: str
    reason: str
    macs: int


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Multiply-accumulates of one forward pass, and the ops that stay float.

    Args:
        macs: of all convolutions, linear layers and matrix products.
        macs_int8: share of them that runs as integers, in [0, 1].
        integer_ops: number of integer kernels by op.
        float_ops: every op that computes in float, with its reason.
    """

    macs: int
    macs_int8: float
    integer_ops: dict[str, int]
    float_ops: tuple[FloatOp, ...]


def coverage(prepared: PreparedModel, inputs: Sequence[Tensor]) -> Coverage:
    """Count what runs as integers for inputs of these shapes."""
    counter = _MacCounter(prepared.network)
    with torch.no_grad():
        counter.run(*inputs)
    placement = prepared.placement
    integer_ops: dict[str, int] = {}
    for kernel in placement.kernels.values():
        if kernel.program_op is not None:
            integer_ops[kernel.program_op] = integer_ops.get(kernel.program_op, 0) + 1
    total = sum(counter.macs.values())
    integer = sum(macs for name, macs in counter.macs.items() if name in placement.kernels)
    nodes = {node.name: node for node in prepared.network.graph.nodes}
    return Coverage(
        macs=total,
        macs_int8=integer / total if total else 0.0,
        integer_ops=dict(sorted(integer_ops.items())),
        float_ops=tuple(
            FloatOp(
                op=str(nodes[name].target),
                node=name,
                layer=layer_name(nodes[name]),
                reason=reason,
                macs=counter.macs.get(name, 0),
            )
            for name, reason in placement.reasons.items()
        ),
    )


class _MacCounter(fx.Interpreter):
    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.macs: dict[str, int] = {}
        self.fixed = constants(network.graph)  # computed once, at convert

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.op == "call_function" and n.name not in self.fixed:
            first = value[0] if isinstance(value, tuple | list) and value else value
            macs = _macs(str(n.target), self.fetch_args_kwargs_from_env(n)[0], first) if isinstance(first, Tensor) else 0
            if macs:
                self.macs[n.name] = macs
        return value


def _macs(op: str, args: Sequence[Any], value: Tensor) -> int:
    """Multiply-accumulates of one op; 0 where it makes no products."""
    if "aten.conv_transpose" in op:
        return int(args[0].numel() * math.prod(args[1].shape[1:]))
    if "aten.conv" in op or "aten.linear" in op:
        return value.numel() * int(math.prod(args[1].shape[1:]))
    if op.startswith(_PRODUCTS):
        return value.numel() * int(args[-1].shape[-2] if args[-1].dim() > 1 else args[-1].shape[0])
    if "aten.einsum" in op:
        return _einsum_macs(*args[:2])
    if "scaled_dot_product_attention" in op:
        query, key, content = args[:3]
        return int(query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + content.shape[-1]))
    if op in _RECURRENT:
        steps = args[0].shape[0] * args[0].shape[1]
        return int(steps * sum(weight.numel() for weight in args[_RECURRENT[op]] if weight.dim() > 1))
    return 0


def _einsum_macs(equation: str, operands: Sequence[Tensor]) -> int:
    """The product of the sizes of all its indices; those that an ellipsis stands for are counted once."""
    sizes: dict[str, int] = {}
    hidden = 1
    for indices, operand in zip(equation.replace(" ", "").split("->")[0].split(","), operands, strict=True):
        before, dots, after = indices.partition("...")
        shape = list(operand.shape)
        sizes.update(zip(before, shape, strict=False))
        sizes.update(zip(reversed(after), reversed(shape), strict=False))
        if dots:
            hidden = max(hidden, math.prod(shape[len(before) : len(shape) - len(after)]))
    return math.prod(sizes.values()) * hidden
