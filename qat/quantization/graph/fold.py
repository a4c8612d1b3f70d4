"""Static batch-norm folding: w' = w * gamma / sqrt(var + eps), b' = beta + (b - mean) * gamma / sqrt(var + eps).

Detectors write frozen batch norms as y * scale + shift with both made of buffers: w' = w * scale, b' = b * scale + shift. A
scale that is trained (layer scale) is left alone: folded, tiny scales would make tiny weights that no optimizer can move.

Folding before QAT is as accurate at 8 bits as simulating the fold in training (Nagel et al. 2021, arXiv:2106.08295,
section 5.2). Nothing is divided by gamma, so a gamma of zero is safe.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from qat.quantization.graph.concatenated import split_batch_norms_
from qat.quantization.graph.nodes import GraphNode, constants, drop_dead_, fx_value, layer_name, replace_

aten = torch.ops.aten

#: Layers whose weight and bias stand at args 1 and 2 with the output channel on axis 0.
PLAIN = {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.linear.default}

#: Those whose weight is (inputs, outputs / groups, ...), and where their groups stand.
TRANSPOSED = {aten.conv_transpose1d.default: 6, aten.conv_transpose2d.input: 6, aten.conv_transpose3d.input: 6}

FOLDABLE = {*PLAIN, *TRANSPOSED}


def fold_batch_norms_(module: fx.GraphModule) -> None:
    """Fold every batch norm that directly follows a convolution or linear layer, or several in a row, with no other user.

    A batch norm that cannot be folded (in front of its layer, after a shared convolution, ...) stays a float op.
    """
    split_batch_norms_(module, FOLDABLE)
    graph, fixed = module.graph, constants(module.graph)
    for norm in [n for n in graph.nodes if n.target is aten.batch_norm.default]:
        layer = _behind_flatten(norm.args[0])
        of_the_batch = norm.args[3] is None or norm.args[5]
        weights = [layer.args[1], *layer.args[2:3]] if layer.target in FOLDABLE and not of_the_batch else []
        shared = any(w is not None and len(w.users) > 1 for w in weights)
        same_channels = layer.target is not aten.linear.default or _dims(norm) == 2
        if not weights or shared or len(_readers(layer)) > 1 or not same_channels or not _is_stored(layer, fixed):
            continue
        _fold_(module, layer, norm)
        rows = norm.args[0]
        replace_(graph, norm, rows)
        for user in list(rows.users):  # flatten(0, 1) and back
            if user.target is aten.reshape_as.default and user.args[1] is layer:
                replace_(graph, user, layer)
    buffers = _Buffers(module)
    for add in [n for n in graph.nodes if n.target is aten.add.Tensor]:
        _fold_frozen_(module, add, buffers)
    drop_dead_(graph)
    module.delete_all_unused_submodules()
    _delete_unused_tensors_(module)
    module.recompile()


def _fold_frozen_(module: fx.GraphModule, add: GraphNode, buffers: _Buffers) -> None:
    """Fold `conv(x) * scale + shift` whose scale and shift are made of buffers, one value per channel."""
    scaled = add.args[0]
    if not (isinstance(scaled, fx.Node) and scaled.target is aten.mul.Tensor and len(scaled.users) == 1):
        return
    layer = scaled.args[0]
    if not (isinstance(layer, fx.Node) and layer.target in PLAIN - {aten.linear.default} and len(layer.users) == 1):
        return
    parameters: list[GraphNode | None] = [layer.args[1], *layer.args[2:3]]
    if any(parameter is not None and (parameter.op != "get_attr" or len(parameter.users) > 1) for parameter in parameters):
        return
    scale, shift = (_per_channel(buffers.value(node), layer) for node in (scaled.args[1], add.args[1]))
    if scale is None or shift is None:
        return
    weight, old_bias = _stored(module, layer)
    new_weight = weight.double() * scale.reshape(-1, *([1] * (weight.dim() - 1)))
    new_bias = shift + (old_bias * scale if old_bias is not None else 0.0)
    _set_layer_(module, layer, new_weight.to(weight.dtype), new_bias.to(weight.dtype))
    replace_(module.graph, add, layer)
    module.graph.erase_node(scaled)


def _per_channel(value: Tensor | None, layer: GraphNode) -> Tensor | None:
    """A value of shape (1, C, 1, ...) for the C channels of `layer`, as (C,); None for anything else."""
    channels, dims = layer.meta["val"].shape[1], _dims(layer)
    shape = (channels, *([1] * (dims - 2)))
    return value.double().reshape(-1) if value is not None and tuple(value.shape) in (shape, (1, *shape)) else None


class _Buffers:
    """What nodes compute from buffers and numbers. Which do so is found in one walk through the graph."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.fixed: set[GraphNode] = set()
        self.values: dict[GraphNode, object] = {}
        for node in module.graph.nodes:
            if node.op == "get_attr":
                known = not isinstance(fx_value(module, node), nn.Parameter)
            else:
                known = node.op == "call_function" and {*node.all_input_nodes} <= self.fixed and bool(node.all_input_nodes)
            if known:
                self.fixed.add(node)

    def value(self, node: GraphNode) -> Tensor | None:
        """None when it depends on an input or a parameter, or is no tensor."""
        found = self._value(node) if node in self.fixed else None
        return found if isinstance(found, Tensor) else None

    def _value(self, node: GraphNode) -> Any:
        if node.op == "get_attr":
            return fx_value(self.module, node).detach()
        if node not in self.values:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._value)
            self.values[node] = node.target(*args, **kwargs)
        return self.values[node]


def _is_stored(layer: GraphNode, fixed: set[str]) -> bool:
    """Whether the weight is a parameter, or computed from parameters alone, and the bias a parameter."""
    bias = layer.args[2] if len(layer.args) > 2 else None
    return layer.args[1].name in fixed and (bias is None or bias.op == "get_attr")


def _fold_(module: fx.GraphModule, layer: GraphNode, norm: GraphNode) -> None:
    """Give a layer the weight and bias of itself and the batch norm behind it; what was frozen stays frozen.

    A weight that is computed from others (parametrizations) trains through them: the factor is multiplied to it.
    """
    gamma, beta, mean, var = (fx_value(module, n).detach().double() if n is not None else None for n in norm.args[1:5])
    assert mean is not None
    assert var is not None
    factor = torch.rsqrt(var + float(norm.args[7])) * (gamma if gamma is not None else 1.0)
    old_bias = layer.args[2] if len(layer.args) > 2 else None
    bias = fx_value(module, old_bias).detach().double() if old_bias is not None else torch.zeros_like(mean)
    new_bias = (bias - mean) * factor + (beta if beta is not None else 0.0)
    trains_shift = _trains(module, old_bias) or _trains(module, norm.args[2])
    stored = layer.args[1]
    if stored.op == "get_attr":
        weight = fx_value(module, stored).detach()
        _set_layer_(module, layer, _scaled(layer, weight.double(), factor).to(weight.dtype), new_bias, trains_shift)
        return
    dtype = stored.meta["val"].dtype
    with module.graph.inserting_before(layer):
        name = f"{layer.name}_batch_norm_factor"
        module.register_buffer(name, _factor(layer, stored.meta["val"], factor).to(dtype))
        node = module.graph.get_attr(name)
        node.meta["val"] = module.get_buffer(name)
        product = module.graph.call_function(aten.mul.Tensor, (stored, node))
        product.meta = dict(stored.meta)
        bias_name = old_bias.target if old_bias is not None else f"{layer_name(layer)}.bias".removeprefix(".")
        bias_node = _parameter_(module, bias_name, new_bias.to(dtype), trains_shift)
    layer.args = (layer.args[0], product, bias_node, *layer.args[3:])


def _factor(layer: GraphNode, weight: Tensor, factor: Tensor) -> Tensor:
    """One factor per output channel, (C,), in a shape that is multiplied to the weight."""
    if layer.target not in TRANSPOSED:
        return factor.reshape(-1, *([1] * (weight.dim() - 1)))
    position = TRANSPOSED[layer.target]
    groups = layer.args[position] if len(layer.args) > position else 1
    rows = factor.reshape(groups, -1).repeat_interleave(weight.shape[0] // groups, 0)
    return rows.reshape(*rows.shape, *([1] * (weight.dim() - 2)))


def _scaled(layer: GraphNode, weight: Tensor, factor: Tensor) -> Tensor:
    return weight * _factor(layer, weight, factor)


def _set_layer_(module: fx.GraphModule, layer: GraphNode, weight: Tensor, bias: Tensor, trains_shift: bool = False) -> None:
    """Give a layer other parameters, under the names that it has (or would have)."""
    trains_shift = trains_shift or (len(layer.args) > 2 and _trains(module, layer.args[2]))
    with module.graph.inserting_before(layer):
        weight_node = _parameter_(module, layer.args[1].target, weight, _trains(module, layer.args[1]))
        name = layer.args[1].target.removesuffix("weight") + "bias"
        bias_node = _parameter_(module, name, bias.to(weight.dtype), trains_shift)
    layer.args = (layer.args[0], weight_node, bias_node, *layer.args[3:])


def _stored(module: fx.GraphModule, layer: GraphNode) -> tuple[Tensor, Tensor | None]:
    """Weight, and bias in float64, of a layer."""
    bias = layer.args[2] if len(layer.args) > 2 else None
    return fx_value(module, layer.args[1]).detach(), fx_value(module, bias).detach().double() if bias is not None else None


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


def _trains(module: fx.GraphModule, stored: GraphNode | None) -> bool:
    """Whether an optimizer changes it; a buffer, and nothing, it does not."""
    return stored is not None and fx_value(module, stored).requires_grad


def _parameter_(module: fx.GraphModule, name: str, value: Tensor, trains: bool) -> GraphNode:
    *path, leaf = name.split(".")
    owner: nn.Module = module
    for part in path:
        if not hasattr(owner, part):  # a layer that has no tensor of its own name
            owner.add_module(part, nn.Module())
        owner = getattr(owner, part)
    if leaf in owner._buffers:
        del owner._buffers[leaf]
    owner.register_parameter(leaf, nn.Parameter(value, requires_grad=trains))
    node = module.graph.get_attr(name)
    node.meta["val"] = owner.get_parameter(leaf)
    return node


def _delete_unused_tensors_(module: fx.GraphModule) -> None:
    used = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for prefix, owner in list(module.named_modules()):
        for store in (owner._parameters, owner._buffers):
            for leaf in [k for k in store if f"{prefix}.{k}".removeprefix(".") not in used]:
                del store[leaf]
