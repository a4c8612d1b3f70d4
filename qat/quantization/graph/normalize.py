"""One dialect: the exported graph in the one vocabulary that everything behind capture reads.

No in-place ops, `reshape` for every kind of view, one clamp and one padding spelling, no assertions.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import fx
from torch._ops import OpOverload

import qat.quantization.graph.traced_dropout  # noqa: F401  (defines the op `drop`)
from qat.quantization.graph.nodes import DROPS, GraphNode, drop_dead_, replace_

aten = torch.ops.aten

#: Changes one node of the graph: gives it another op with other arguments, or takes it out.
Rule: TypeAlias = Callable[[fx.Graph, GraphNode], None]


def normalize_(module: fx.GraphModule) -> None:
    """Bring the exported graph into the one dialect that the rest of the library reads."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and not node.users:  # torch.export's own guards
            graph.erase_node(node)
        elif node.op == "call_function":
            _normalize_node_(graph, node)
    drop_dead_(graph)
    module.delete_all_unused_submodules()
    module.recompile()


def _normalize_node_(graph: fx.Graph, node: GraphNode) -> None:
    """Make it functional, then apply rules until one leaves the op as it is: `hardtanh_` -> `hardtanh` -> `clamp`."""
    if _mutates(node) and (twin := functional(node.target)) is not None:
        written = node.args[0]
        node.target = twin
        written.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node and user > node)
    before = None
    while node.target is not before and node.target in RULES and DROPS not in node.meta:
        before = node.target
        RULES[before](graph, node)


# --- rules -----------------------------------------------------------------------------------------------------------


def _spell(op: OpOverload) -> Rule:
    """The same under another name."""

    def rule(graph: fx.Graph, node: GraphNode) -> None:
        node.target = op

    return rule


def _leave_out(graph: fx.Graph, node: GraphNode) -> None:
    """Its value is its first argument."""
    replace_(graph, node, node.args[0])


def _erase(graph: fx.Graph, node: GraphNode) -> None:
    """Its value is nothing."""
    graph.erase_node(node)


def _zeros(graph: fx.Graph, node: GraphNode) -> None:
    """What is overwritten later may as well start as zeros."""
    kwargs = {name: value for name, value in node.kwargs.items() if name != "memory_format"}
    node.target, node.kwargs = aten.zeros.default, kwargs


def _move_nowhere(graph: fx.Graph, node: GraphNode) -> None:
    """A program runs where its inputs are, so only the dtype counts."""
    node.target, node.args = aten.to.dtype, (node.args[0], node.args[2])


def _convert_dtype(graph: fx.Graph, node: GraphNode) -> None:
    if node.kwargs.get("dtype") is not None:
        node.target, node.args, node.kwargs = aten.to.dtype, (node.args[0], node.kwargs["dtype"]), {}


def _leave_out_same_dtype(graph: fx.Graph, node: GraphNode) -> None:
    if _keeps_dtype(node):
        _leave_out(graph, node)


def _leave_out_sum_with_zero(graph: fx.Graph, node: GraphNode) -> None:
    other = node.args[1]
    if _keeps_dtype(node) and not isinstance(other, fx.Node) and other == 0:
        _leave_out(graph, node)


def _leave_out_whole_slice(graph: fx.Graph, node: GraphNode) -> None:
    if _whole(node.args[2:]):
        _leave_out(graph, node)


def _take_what_overwrites_all(graph: fx.Graph, node: GraphNode) -> None:
    """A copy into a tensor of the same kind, or into a slice that is the whole of it: the value is what is copied."""
    if node.target is aten.slice_scatter.default:
        whole = _whole(node.args[3:])
    else:
        first, second = (arg.meta["val"] for arg in node.args[:2])
        whole = str(first.shape) == str(second.shape) and first.dtype == second.dtype
    if whole:
        replace_(graph, node, node.args[1])


def _clamp_at_six(graph: fx.Graph, node: GraphNode) -> None:
    node.target, node.args = aten.clamp.default, (node.args[0], 0.0, 6.0)


def _clamp(graph: fx.Graph, node: GraphNode) -> None:
    given = list(node.args[1:])
    low, high = given + [-1.0, 1.0][len(given) :]
    node.target, node.args = aten.clamp.default, (node.args[0], low, high)


def _explicit_padding(graph: fx.Graph, node: GraphNode) -> None:
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


def _one_output_batch_norm(graph: fx.Graph, node: GraphNode) -> None:
    """The op of inference returns (output, mean, rstd); `batch_norm` returns the output."""
    x, weight, bias, mean, var, momentum, eps = node.args
    node.meta["val"] = node.meta["val"][0]
    node.target, node.args = aten.batch_norm.default, (x, weight, bias, mean, var, False, momentum, eps, False)
    for user in list(node.users):
        replace_(graph, user, node)


def _dropout(graph: fx.Graph, node: GraphNode) -> None:
    """A dropout of the model, as it is in evaluation; what it does in training stands beside it."""
    x, p, kind = node.args
    node.target, node.args, node.meta[DROPS] = aten.dropout.default, (x, p, False), kind


def _transpose(graph: fx.Graph, node: GraphNode) -> None:
    """`x.mT` swaps the last two dimensions."""
    node.target, node.args = aten.transpose.int, (node.args[0], -2, -1)


def _mean_slope(graph: fx.Graph, node: GraphNode) -> None:
    """RReLU in evaluation; the op returns (output, noise)."""
    x, _, low, high = (*node.args, *(1 / 8, 1 / 3)[len(node.args) - 2 :])[:4]
    node.meta["val"] = node.meta["val"][0]
    node.target, node.args, node.kwargs = aten.leaky_relu.default, (x, (low + high) / 2), {}
    for user in list(node.users):
        replace_(graph, user, node)


#: `detach` is not left out: training must send no gradient where the model sends none.
RULES: dict[object, Rule] = {
    **dict.fromkeys((aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default), _leave_out),
    aten.feature_alpha_dropout.default: _leave_out,
    torch.ops.qat.drop.default: _dropout,
    **dict.fromkeys((aten.alias.default, aten.lift_fresh_copy.default), _leave_out),
    **dict.fromkeys((aten._assert_async.default, aten._assert_async.msg, aten._assert_scalar.default), _erase),
    **dict.fromkeys((aten._assert_tensor_metadata.default, aten.sym_constrain_range.default), _erase),
    aten.sym_constrain_range_for_size.default: _erase,
    aten.to.device: _move_nowhere,
    aten.to.dtype_layout: _convert_dtype,
    aten.to.dtype: _leave_out_same_dtype,
    aten.add.Tensor: _leave_out_sum_with_zero,
    aten.slice.Tensor: _leave_out_whole_slice,
    aten.copy.default: _take_what_overwrites_all,
    aten.slice_scatter.default: _take_what_overwrites_all,
    aten.empty.memory_format: _zeros,
    aten.mT.default: _transpose,
    aten.view.default: _spell(aten.reshape.default),
    aten._unsafe_view.default: _spell(aten.reshape.default),
    aten.__and__.Tensor: _spell(aten.bitwise_and.Tensor),
    aten.__or__.Tensor: _spell(aten.bitwise_or.Tensor),
    aten.multiply.Tensor: _spell(aten.mul.Tensor),
    aten.min.other: _spell(aten.minimum.default),
    aten.max.other: _spell(aten.maximum.default),
    aten.concat.default: _spell(aten.cat.default),
    aten.concatenate.default: _spell(aten.cat.default),
    aten.relu6.default: _clamp_at_six,
    aten.hardtanh.default: _clamp,
    aten.rrelu_with_noise_functional.default: _mean_slope,
    aten.conv1d.padding: _explicit_padding,
    aten.conv2d.padding: _explicit_padding,
    aten._native_batch_norm_legit_no_training.default: _one_output_batch_norm,
}


def _keeps_dtype(node: GraphNode) -> bool:
    values = [it.meta.get("val") for it in (node.args[0], node) if isinstance(it, fx.Node)]
    return len(values) == 2 and getattr(values[0], "dtype", None) == getattr(values[1], "dtype", False)


def _whole(bounds: Sequence[object]) -> bool:
    """Whether (start, end, step) of a slice, as far as they are given, select everything."""
    given = list(bounds)
    start, end, step = given + [None, None, 1][len(given) :]
    return start in (None, 0) and end in (None, sys.maxsize) and step == 1


# --- in-place ops ------------------------------------------------------------------------------------------------------


def needs_functionalization(graph: fx.Graph) -> bool:
    """Whether an in-place op writes into a tensor that something else may still see."""
    for node in graph.nodes:
        if node.op == "call_function" and _mutates(node):
            target = node.args[0]
            plain = isinstance(target, fx.Node) and target.op == "call_function" and functional(node.target) is not None
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


def functional(op: OpOverload) -> OpOverload | None:
    """`aten.relu.default` for `aten.relu_.default`; None when there is no such op."""
    name = op._schema.name.removeprefix("aten::")
    packet = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") else None
    found: OpOverload | None = getattr(packet, op._overloadname, None)
    return found
