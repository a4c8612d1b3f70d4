"""One dialect: the exported graph in the one vocabulary that everything behind capture reads.

No in-place ops, `reshape` for every kind of view, one clamp and one padding spelling, no dropout, no assertions.
"""

from __future__ import annotations

import operator
import sys
from typing import Any

import torch
from torch import fx

from qat.quantization.graph.nodes import GraphNode, replace_

aten = torch.ops.aten

#: Ops that change nothing in eval mode. `detach` is not one of them: training must send no gradient where the model sends none.
IDENTITY = {
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.alias.default,
    aten.lift_fresh_copy.default,
}

#: One spelling for ops that have several.
SPELLING = {
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
    aten.relu6.default: aten.hardtanh.default,
    aten.__and__.Tensor: aten.bitwise_and.Tensor,
    aten.__or__.Tensor: aten.bitwise_or.Tensor,
    aten.multiply.Tensor: aten.mul.Tensor,
    aten.min.other: aten.minimum.default,
    aten.max.other: aten.maximum.default,
    aten.concat.default: aten.cat.default,
    aten.concatenate.default: aten.cat.default,
}


def normalize_(module: fx.GraphModule) -> None:
    """Bring the exported graph into the one dialect that the rest of the library reads."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and not node.users:  # torch.export's own guards
            graph.erase_node(node)
        elif node.op == "call_function":
            _normalize_node_(graph, node)
    graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()


def _normalize_node_(graph: fx.Graph, node: GraphNode) -> None:
    name = str(node.target)
    if "_assert" in name or "sym_constrain_range" in name:
        graph.erase_node(node)
        return
    if node.target is aten.to.device:  # a program runs where its inputs are
        node.target, node.args = aten.to.dtype, (node.args[0], node.args[2])
    if node.target is aten.to.dtype_layout and node.kwargs.get("dtype") is not None:
        node.target, node.args, node.kwargs = aten.to.dtype, (node.args[0], node.kwargs["dtype"]), {}
    if node.target in IDENTITY:
        replace_(graph, node, node.args[0])
        return
    if _mutates(node) and _functional(node) is not None:
        written = node.args[0]
        node.target = _functional(node)
        written.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node and user > node)
    if _changes_nothing(node):
        replace_(graph, node, node.args[0])
        return
    if _overwrites_everything(node):
        replace_(graph, node, node.args[1])
        return
    if node.target is aten.empty.memory_format:  # what is overwritten later may as well start as zeros
        node.target = aten.zeros.default
    if node.target in SPELLING:
        if node.target is aten.relu6.default:
            node.args = (node.args[0], 0.0, 6.0)
        node.target = SPELLING[node.target]
    if node.target is aten.hardtanh.default:  # spell the default bounds out
        given = list(node.args[1:])
        low, high = given + [-1.0, 1.0][len(given) :]
        node.target, node.args = aten.clamp.default, (node.args[0], low, high)
    if node.target in (aten.conv1d.padding, aten.conv2d.padding):
        _explicit_padding_(node)
    if node.target is aten._native_batch_norm_legit_no_training.default:
        x, weight, bias, mean, var, momentum, eps = node.args
        node.target, node.args = aten.batch_norm.default, (x, weight, bias, mean, var, False, momentum, eps, False)
        for user in list(node.users):  # the op returns (output, mean, rstd); batch_norm returns the output
            replace_(graph, user, node)


def _changes_nothing(node: GraphNode) -> bool:
    """A sum with the number 0, a conversion to the dtype that the tensor has, or a slice of everything."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or not hasattr(source.meta.get("val"), "dtype"):
        return False
    same = source.meta["val"].dtype == node.meta["val"].dtype if hasattr(node.meta.get("val"), "dtype") else False
    if node.target is aten.add.Tensor:
        return same and not isinstance(node.args[1], fx.Node) and node.args[1] == 0
    if node.target is aten.slice.Tensor:
        return _whole(node.args[2:])
    return same and node.target is aten.to.dtype


def _overwrites_everything(node: GraphNode) -> bool:
    """A copy into a tensor of the same kind, or into a slice that is the whole of it: the value is what is copied."""
    if node.target is aten.slice_scatter.default:
        return _whole(node.args[3:])
    if node.target is not aten.copy.default:
        return False
    kinds = [(str(arg.meta["val"].shape), arg.meta["val"].dtype) for arg in node.args[:2]]
    return kinds[0] == kinds[1]


def _whole(bounds: tuple[Any, ...]) -> bool:
    """Whether (start, end, step) of a slice, as far as they are given, select everything."""
    given = list(bounds)
    start, end, step = given + [None, None, 1][len(given) :]
    return start in (None, 0) and end in (None, sys.maxsize) and step == 1


def _explicit_padding_(node: GraphNode) -> None:
    """padding='valid' or a symmetric 'same' becomes numbers; an asymmetric 'same' stays as it is."""
    args = [*node.args, *[None, 1, "valid", 1, 1][len(node.args) - 2 :]]
    kernel = args[1].meta["val"].shape[2:]
    dilation = [args[5]] * len(kernel) if isinstance(args[5], int) else list(args[5])
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if args[4] == "same" and any(t % 2 for t in total):
        return
    args[4] = [t // 2 if args[4] == "same" else 0 for t in total]
    args[3] = [args[3]] * len(kernel) if isinstance(args[3], int) else args[3]
    node.args = (*args[:5], dilation, args[6])
    node.target = aten.conv2d.default if len(kernel) == 2 else aten.conv1d.default


def needs_functionalization(graph: fx.Graph) -> bool:
    """Whether an in-place op writes into a tensor that something else may still see."""
    for node in graph.nodes:
        if node.op == "call_function" and _mutates(node):
            target = node.args[0]
            plain = isinstance(target, fx.Node) and target.op == "call_function" and _functional(node) is not None
            if not plain or _is_view(target) or any(_is_view(user) for user in target.users if user is not node):
                return True
    return False


def _mutates(node: GraphNode) -> bool:
    schema = getattr(node.target, "_schema", None)
    return bool(schema and schema.is_mutable)


def _is_view(node: GraphNode) -> bool:
    schema = getattr(node.target, "_schema", None)
    aliased = bool(schema and schema.returns and schema.returns[0].alias_info) and not _mutates(node)
    return aliased or node.target in (operator.getitem, aten.contiguous.default, aten.reshape.default, aten.to.dtype)


def _functional(node: GraphNode) -> Any:
    """`aten.relu.default` for `aten.relu_.default`; None when there is no such op."""
    name = node.target._schema.name.removeprefix("aten::")
    packet = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") else None
    return getattr(packet, node.target._overloadname, None)
