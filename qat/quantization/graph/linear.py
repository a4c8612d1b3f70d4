"""Linear layers in other words become linear layers: y = x w^T + b is written in many ways.

    x @ w          matmul, mm, and bmm's place in einsum("bld,dh->blh")
    x @ w + b      an addition of one value per output
    addmm(b, x, w) GPT-2's Conv1D among others

where w and b depend on parameters alone.
"""

from __future__ import annotations

import torch
from torch import fx

from qat.quantization.graph.nodes import GraphNode, constants, drop_dead_, replace_

aten = torch.ops.aten

#: Ops of an activation and a matrix.
PRODUCTS = (aten.matmul.default, aten.mm.default)


def linearize_(module: fx.GraphModule) -> None:
    """Rewrite every product of an activation with a constant matrix, and take in the constant vector that is added to it."""
    graph, fixed = module.graph, constants(module.graph)
    for node in list(graph.nodes):
        if node.target in _RULES and node.name not in fixed:
            _RULES[node.target](graph, node, fixed)
    drop_dead_(graph)
    module.recompile()


def _from_product(graph: fx.Graph, node: GraphNode, fixed: set[str]) -> None:
    x, weight = node.args[:2]
    if _is_constant(weight, 2, fixed) and x.name not in fixed and _dims(x) > 1:
        _become_linear_(graph, node, x, weight, transposed=True)


def _from_addmm(graph: fx.Graph, node: GraphNode, fixed: set[str]) -> None:
    bias, x, weight = node.args[:3]
    if not (_is_constant(weight, 2, fixed) and _is_constant(bias, 1, fixed)) or x.name in fixed:
        return
    plain = node.kwargs.get("alpha", 1) == 1 and node.kwargs.get("beta", 1) == 1
    if plain and bias.meta["val"].shape[0] == weight.meta["val"].shape[1]:
        _become_linear_(graph, node, x, weight, bias, transposed=True)


def _from_einsum(graph: fx.Graph, node: GraphNode, fixed: set[str]) -> None:
    """`...d,dh->...h` or `...d,hd->...h`: what is summed stands last in the activation, what is new last in the result."""
    equation, operands = node.args[:2]
    sides = equation.replace(" ", "").split("->")
    if len(operands) != 2 or len(sides) != 2 or "..." in equation:
        return
    (first, second), result = sides[0].split(","), sides[1]
    x, weight = operands
    summed = first[-1]
    if not _is_constant(weight, 2, fixed) or x.name in fixed or len(set(second)) != 2 or len(set(first)) != len(first):
        return
    free = second.replace(summed, "")
    if len(free) == 1 and free not in first and summed not in result and result == first[:-1] + free and len(first) > 1:
        _become_linear_(graph, node, x, weight, transposed=second[0] == summed)


def _from_sum(graph: fx.Graph, node: GraphNode, fixed: set[str]) -> None:
    """A linear layer without a bias, and a vector of one value per output."""
    for layer, bias in (node.args[:2], node.args[1::-1]):
        if not (isinstance(layer, fx.Node) and layer.target is aten.linear.default and len(layer.users) == 1):
            continue
        bare = len(layer.args) < 3 or layer.args[2] is None
        outputs = layer.meta["val"].shape[-1]
        if bare and node.kwargs.get("alpha", 1) == 1 and _is_constant(bias, 1, fixed) and bias.meta["val"].shape[0] == outputs:
            layer.args = (*layer.args[:2], bias)
            _move_behind_(layer, bias)
            replace_(graph, node, layer)
            return


_RULES = {
    **dict.fromkeys(PRODUCTS, _from_product),
    aten.addmm.default: _from_addmm,
    aten.einsum.default: _from_einsum,
    aten.add.Tensor: _from_sum,
}


def _become_linear_(
    graph: fx.Graph, node: GraphNode, x: GraphNode, weight: GraphNode, bias: GraphNode | None = None, *, transposed: bool
) -> None:
    if transposed:
        with graph.inserting_before(node):
            turned = graph.call_function(aten.t.default, (weight,))
        turned.meta = {**node.meta, "val": weight.meta["val"].t()}
        weight = turned
    node.target, node.kwargs = aten.linear.default, {}
    node.args = (x, weight) if bias is None else (x, weight, bias)


def _move_behind_(layer: GraphNode, bias: GraphNode) -> None:
    """Put a layer behind the constant that it now reads; nothing between the two reads the layer."""
    if layer < bias:
        bias.append(layer)


def _is_constant(node: object, dims: int, fixed: set[str]) -> bool:
    return isinstance(node, fx.Node) and node.name in fixed and _dims(node) == dims


def _dims(node: GraphNode) -> int:
    return int(node.meta["val"].dim())
