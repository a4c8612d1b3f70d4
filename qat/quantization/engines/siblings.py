"""Sibling linear layers: those that read the same integers and return float become one layer with all their outputs.

Query, key and value of an attention layer are the example. The input is then quantized and read once, and one large product
is faster than three small ones. Every output channel keeps its own weights, scale and bias, so no number changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from qat.quantization.program.program import Int8Program, Node, Ref, TensorRef, leaves


def merge_siblings(program: Int8Program) -> Int8Program:
    """The same program with sibling linear layers merged; their names stay, as parts of the merged output."""
    groups: dict[str, list[Node]] = {}
    for node in program.nodes:
        if node.op == "int8.linear" and node.grid is None:
            groups.setdefault(node.args[0].name, []).append(node)
    merged = {group[0].name: group for group in groups.values() if len(group) > 1}
    if not merged:
        return program
    members = {node.name for group in merged.values() for node in group}
    nodes: list[Node] = []
    tensors = dict(program.tensors)
    for node in program.nodes:
        if node.name in merged:
            nodes += _merged(merged[node.name], program, tensors)
        elif node.name not in members:
            nodes.append(node)
    used = {leaf.name for node in nodes for leaf in leaves((node.args, dict(node.kwargs))) if isinstance(leaf, TensorRef)}
    return replace(program, nodes=tuple(nodes), tensors={name: value for name, value in tensors.items() if name in used})


def _merged(group: Sequence[Node], program: Int8Program, tensors: dict[str, Tensor]) -> list[Node]:
    """One layer, its output split, and a node under each layer's own name that picks its part."""
    name = f"{group[0].name}_and_siblings"
    weights, scales = ([program.tensors[node.args[i].name] for node in group] for i in (1, 2))
    parts: list[object] = [Ref(group[0].args[0].name)]
    for kind, value in (("weight", torch.cat(weights)), ("weight_scale", torch.cat(scales)), ("bias", _biases(group, program))):
        if value is not None:
            tensors[f"{name}.{kind}"] = value
        parts.append(TensorRef(f"{name}.{kind}") if value is not None else None)
    sizes = [weight.shape[0] for weight in weights]
    layer = Node(name=name, op="int8.linear", args=tuple(parts), layer=group[0].layer)
    split = Node(name=f"{name}_split", op="aten.split_with_sizes.default", args=(Ref(name), sizes, -1), layer=group[0].layer)
    picked = [
        Node(name=node.name, op="size.getitem", args=(Ref(split.name), i), layer=node.layer) for i, node in enumerate(group)
    ]
    return [layer, split, *picked]


def _biases(group: Sequence[Node], program: Int8Program) -> Tensor | None:
    """All biases in a row, zeros for a layer that has none; None when no layer has one."""
    if all(node.args[3] is None for node in group):
        return None
    return torch.cat(
        [
            program.tensors[node.args[3].name]
            if node.args[3] is not None
            else torch.zeros(program.tensors[node.args[1].name].shape[0])
            for node in group
        ]
    )
