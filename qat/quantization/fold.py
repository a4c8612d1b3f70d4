"""Static batch-norm folding: w' = w * gamma / sqrt(var + eps), b' = beta + (b - mean) * gamma / sqrt(var + eps).

Folding before QAT is as accurate at 8 bits as simulating the fold in training (Nagel et al. 2021, arXiv:2106.08295,
section 5.2). Nothing is divided by gamma, so a gamma of zero is safe.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from qat.quantization.graph import GraphNode, fx_value, replace_

aten = torch.ops.aten

#: Convolution-like ops whose weight and bias stand at args 1 and 2 with the output channel on axis 0.
FOLDABLE = {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.linear.default}


def fold_batch_norms_(module: fx.GraphModule) -> None:
    """Fold every batch norm that directly follows a convolution or linear layer with no other user.

    A batch norm that cannot be folded (after a concatenation, a shared convolution, ...) stays a float op.
    """
    graph = module.graph
    for norm in [n for n in graph.nodes if n.target is aten.batch_norm.default]:
        layer = _behind_flatten(norm.args[0])
        weights = [layer.args[1], *layer.args[2:3]] if layer.target in FOLDABLE else []
        shared = any(w is not None and len(w.users) > 1 for w in weights)
        same_channels = layer.target is not aten.linear.default or _dims(norm) == 2
        if not weights or shared or len(_readers(layer)) > 1 or not same_channels:
            continue
        weight, bias = _folded(module, layer, norm)
        with graph.inserting_before(layer):
            weight_node = _parameter_(module, layer.args[1].target, weight)
            bias_name = layer.args[1].target.removesuffix("weight") + "bias"
            bias_node = _parameter_(module, bias_name, bias)
        for new in (weight_node, bias_node):
            new.meta["val"] = fx_value(module, new)
        layer.args = (layer.args[0], weight_node, bias_node, *layer.args[3:])
        rows = norm.args[0]
        replace_(graph, norm, rows)
        for user in list(rows.users):  # flatten(0, 1) and back
            if user.target is aten.reshape_as.default and user.args[1] is layer:
                replace_(graph, user, layer)
    graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    _delete_unused_tensors_(module)
    module.recompile()


def _readers(node: GraphNode) -> list[GraphNode]:
    """The users that read the values of `node`; `reshape_as(y, node)` reads its shape alone."""
    return [user for user in node.users if user.target is not aten.reshape_as.default or user.args[0] is node]


def _behind_flatten(node: GraphNode) -> GraphNode:
    """The linear layer whose rows a `flatten(0, 1)` merges before a batch norm (LeViT); otherwise the node itself."""
    if node.target is aten.flatten.using_ints and node.args[1:] == (0, 1) and len(node.users) == 1:
        source = node.args[0]
        if isinstance(source, fx.Node) and source.target is aten.linear.default and _dims(source) == 3:
            return source
    return node


def _dims(node: GraphNode) -> int:
    return int(node.meta["val"].dim())


def _folded(module: fx.GraphModule, layer: GraphNode, norm: GraphNode) -> tuple[Tensor, Tensor]:
    values = [fx_value(module, n).detach().double() if n is not None else None for n in norm.args[1:5]]
    gamma, beta, mean, var = values
    assert mean is not None
    assert var is not None
    factor = torch.rsqrt(var + float(norm.args[7])) * (gamma if gamma is not None else 1.0)
    weight = fx_value(module, layer.args[1]).detach()
    old_bias = layer.args[2] if len(layer.args) > 2 else None
    bias = fx_value(module, old_bias).detach().double() if old_bias is not None else torch.zeros_like(mean)
    new_weight = weight.double() * factor.reshape(-1, *([1] * (weight.dim() - 1)))
    new_bias = (bias - mean) * factor + (beta if beta is not None else 0.0)
    return new_weight.to(weight.dtype), new_bias.to(weight.dtype)


def _parameter_(module: fx.GraphModule, name: str, value: Tensor) -> GraphNode:
    *path, leaf = name.split(".")
    owner: nn.Module = module
    for part in path:
        owner = getattr(owner, part)
    if leaf in owner._buffers:
        del owner._buffers[leaf]
    owner.register_parameter(leaf, nn.Parameter(value))
    return module.graph.get_attr(name)


def _delete_unused_tensors_(module: fx.GraphModule) -> None:
    used = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for prefix, owner in list(module.named_modules()):
        for store in (owner._parameters, owner._buffers):
            for leaf in [k for k in store if f"{prefix}.{k}".removeprefix(".") not in used]:
                del store[leaf]
