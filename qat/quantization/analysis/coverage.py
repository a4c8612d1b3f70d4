"""Coverage: how much of the network runs as integers, and why the rest does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from qat.quantization.graph.nodes import layer_name
from qat.quantization.prepared import PreparedModel

_PRODUCTS = ("aten.matmul", "aten.bmm", "aten.mm", "aten.baddbmm", "aten.addmm")


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

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        op = str(n.target)
        if n.op == "call_function" and isinstance(value, Tensor):
            args = self.fetch_args_kwargs_from_env(n)[0]
            if "aten.conv" in op or "aten.linear" in op:
                self.macs[n.name] = value.numel() * math.prod(args[1].shape[1:])
            elif op.startswith(_PRODUCTS):
                self.macs[n.name] = value.numel() * int(args[-1].shape[-2] if args[-1].dim() > 1 else args[-1].shape[0])
            elif "scaled_dot_product_attention" in op:
                query, key, content = args[:3]
                self.macs[n.name] = query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + content.shape[-1])
        return value
