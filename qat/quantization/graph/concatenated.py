"""A batch norm behind a concatenation of layers becomes one batch norm per layer, so that each can be folded.

norm(cat(a, b)) = cat(norm_a(a), norm_b(b))              MixNet, Inception, ShuffleNet's kin
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, fx, nn

from qat.quantization.graph.nodes import GraphNode, argument, fx_value

aten = torch.ops.aten


def split_batch_norms_(module: fx.GraphModule, foldable: Collection[object]) -> None:
    """Give every concatenated layer its own part of the batch norm behind them, where all of them are layers that nothing else
    reads.

    Args:
        foldable: ops that a batch norm can be folded into.
    """
    graph = module.graph
    for norm in [n for n in graph.nodes if n.target is aten.batch_norm.default]:
        cat = norm.args[0]
        if norm.args[3] is None or norm.args[5]:  # statistics of the batch
            continue
        if cat.target is not aten.cat.default or argument(cat, 1, "dim", 0) not in (1, 1 - cat.meta["val"].dim()):
            continue
        parts = cat.args[0]
        if len(cat.users) > 1 or any(part.target not in foldable or len(part.users) > 1 for part in parts):
            continue
        start, split = 0, []
        for i, part in enumerate(parts):
            end = start + int(part.meta["val"].shape[1])
            split.append(_part_(module, norm, part, i, slice(start, end)))
            start = end
        cat.args = (split, *cat.args[1:])
        norm.replace_all_uses_with(cat)
        graph.erase_node(norm)


def _part_(module: fx.GraphModule, norm: GraphNode, part: GraphNode, i: int, channels: slice) -> GraphNode:
    """The batch norm of these channels, right behind their layer."""
    with module.graph.inserting_after(part):
        own = module.graph.call_function(aten.batch_norm.default, (part, None, None, None, None, *norm.args[5:]))
    own.meta = {**norm.meta, "val": part.meta["val"]}
    with module.graph.inserting_before(own):
        stored = [_slice_(module, node, f"{norm.name}_{i}", channels) if node is not None else None for node in norm.args[1:5]]
    own.args = (part, *stored, *norm.args[5:])
    return own


def _slice_(module: fx.GraphModule, node: GraphNode, part: str, channels: slice) -> GraphNode:
    whole = fx_value(module, node)
    *path, leaf = node.target.split(".")
    owner, name = module.get_submodule(".".join(path)), f"{leaf}_{part}"
    value: Tensor = whole.detach()[channels].clone()
    if isinstance(whole, nn.Parameter):
        owner.register_parameter(name, nn.Parameter(value, requires_grad=whole.requires_grad))
    else:
        owner.register_buffer(name, value)
    stored = module.graph.get_attr(".".join([*path, name]))
    stored.meta["val"] = value
    return stored
