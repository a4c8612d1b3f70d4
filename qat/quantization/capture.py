"""Capture: `nn.Module` + example inputs -> one ATen graph, in eval mode, batch norm folded.

`torch.export` traces what FX symbolic tracing cannot; in eval mode there is one graph for training, evaluation and
deployment. The exported graph is then brought into one dialect, so that everything behind capture reads one vocabulary:
no in-place ops, `reshape` for every kind of view, one conv and one clamp spelling, no dropout, no assertions.

Static batch-norm folding before QAT is as accurate at 8 bits as simulating the fold (Nagel et al. 2021,
arXiv:2106.08295, section 5.2): w' = w * gamma / sqrt(var + eps), b' = beta + (b - mean) * gamma / sqrt(var + eps).
Nothing is divided by gamma, so a gamma of zero is safe.
"""

from __future__ import annotations

import copy
import operator
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qat.errors import CaptureError

aten = torch.ops.aten

#: Convolution-like ops whose weight and bias stand at args 1 and 2 with the output channel on axis 0.
FOLDABLE = {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.linear.default}

#: Ops that change nothing in eval mode.
IDENTITY = {
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.detach.default,
    aten.alias.default,
    aten.lift_fresh_copy.default,
}

#: One spelling for ops that have several.
SPELLING = {
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
    aten.relu6.default: aten.hardtanh.default,
}


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """One tensor input of a captured graph. A dimension of None is free (batch, length)."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class Captured:
    """A captured model: the graph and what it takes.

    Args:
        module: a `GraphModule` of plain ATen ops; parameters keep the names they had in the model; `train()` and
            `eval()` make no difference to what it computes.
        inputs: one spec per positional input.
    """

    module: fx.GraphModule
    inputs: tuple[InputSpec, ...]


def capture(
    model: nn.Module, example_inputs: Sequence[Tensor], *, dynamic_dims: Sequence[Sequence[int]] | None = None
) -> Captured:
    """Trace `model` in eval mode into one graph with a free batch size and folded batch norms.

    Args:
        model: any module that takes tensors and returns a tensor or a tuple, list or dict of tensors; left alone.
        example_inputs: the positional inputs. A batch of 1 is doubled, because a traced size of 1 would be pinned.
        dynamic_dims: per input, the dimensions that stay free; the default is dimension 0 of every input.

    Raises:
        CaptureError: the model cannot be traced, or the graph does not compute what the model computes.
    """
    inputs = tuple(_doubled(x) for x in example_inputs)
    if not inputs:
        raise CaptureError("capture needs at least one example input")
    dims = [tuple(d) for d in dynamic_dims] if dynamic_dims is not None else [(0,)] * len(inputs)
    model = copy.deepcopy(model).eval()
    module = _export(model, inputs, dims)
    _normalize_(module)
    fold_batch_norms_(module)
    _check(model, module, inputs)
    placeholders = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    return Captured(
        module=module,
        inputs=tuple(
            InputSpec(name=name, dtype=x.dtype, shape=tuple(None if i in free else n for i, n in enumerate(x.shape)))
            for name, x, free in zip(placeholders, inputs, dims, strict=True)
        ),
    )


def layer_name(node: fx.Node) -> str:
    """Dotted name of the innermost module that `node` comes from; '' for the model itself."""
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][0]) if stack else ""


def _doubled(x: Tensor) -> Tensor:
    return torch.cat([x, x]) if x.dim() > 0 and x.shape[0] == 1 else x


def _export(model: nn.Module, inputs: tuple[Tensor, ...], dims: list[tuple[int, ...]]) -> fx.GraphModule:
    shapes = tuple({i: torch.export.Dim.DYNAMIC for i in free} for free in dims)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, inputs, dynamic_shapes=(shapes,) if _variadic(model) else shapes)
            if _needs_functionalization(program.graph):
                program = program.run_decompositions({})
            exported = program.module(check_guards=False)
    except Exception as error:
        raise CaptureError(_explain(model, error)) from error
    return _flatten(exported, program.call_spec.out_spec)


def _variadic(model: nn.Module) -> bool:
    code = model.forward.__code__ if hasattr(model.forward, "__code__") else None
    return bool(code and code.co_flags & 0x04 and code.co_argcount == 1)


def _explain(model: nn.Module, error: Exception) -> str:
    """Say which line of the model stopped the tracer and what to do about it."""
    text = f"{error}\n{error.__cause__ or ''}"
    places = re.findall(r'File "([^"]+)", line (\d+), in (\w+)\s*\n\s*([^\n]*)', text)
    frames = [p for p in places if "torch/" not in p[0].replace("\\", "/")] or _frames(error)
    where = f" at {frames[-1][0]}:{frames[-1][1]}: `{frames[-1][3].strip()}`" if frames else ""
    reason = next((line for line in str(error).strip().splitlines() if line.strip()), type(error).__name__)
    return (
        f"{type(model).__name__} cannot be captured{where}.\n  {type(error).__name__}: {reason[:300]}\n"
        "Control flow must not depend on tensor values, and sizes must not be turned into Python numbers. Move that "
        "line out of forward, rewrite it with tensor ops (torch.where, masks), or capture the part of the model around it."
    )


def _frames(error: BaseException) -> list[tuple[str, str, str, str]]:
    import traceback

    summary = traceback.extract_tb(error.__traceback__)
    frames = [(f.filename, str(f.lineno), f.name, f.line or "") for f in summary]
    return [f for f in frames if "/torch/" not in f[0].replace("\\", "/") and "/qat/quantization/" not in f[0]]


def _needs_functionalization(graph: fx.Graph) -> bool:
    """Whether an in-place op writes into a tensor that something else may still see."""
    for node in graph.nodes:
        if node.op == "call_function" and _mutates(node):
            target = node.args[0]
            plain = isinstance(target, fx.Node) and target.op == "call_function" and _functional(node) is not None
            if not plain or _is_view(target) or any(_is_view(user) for user in target.users if user is not node):
                return True
    return False


def _mutates(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return bool(schema and schema.is_mutable)


def _is_view(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    aliased = bool(schema and schema.returns and schema.returns[0].alias_info) and not _mutates(node)
    return aliased or node.target in (operator.getitem, aten.contiguous.default, aten.reshape.default, aten.to.dtype)


def _functional(node: fx.Node) -> Any:
    """`aten.relu.default` for `aten.relu_.default`; None when there is no such op."""
    name = node.target._schema.name.removeprefix("aten::")
    packet = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") else None
    return getattr(packet, node.target._overloadname, None)


def _flatten(exported: nn.Module, out_spec: pytree.TreeSpec) -> fx.GraphModule:
    """A `GraphModule` with flat positional inputs whose output node holds the model's own structure."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    result = graph.graph_copy(exported.graph, copied)
    flat = [result] if isinstance(result, fx.Node) else list(result)  # type: ignore[arg-type]
    structure = pytree.tree_unflatten(flat, out_spec)
    if not _is_plain(structure):
        raise CaptureError(
            f"the model returns {out_spec.type.__name__}; a captured model returns a tensor, or a tuple, list or dict of "
            "tensors. Wrap it in a small module that returns the fields you need as a tuple."
        )
    graph.output(structure)
    return fx.GraphModule(exported, graph)


def _is_plain(structure: Any) -> bool:
    if type(structure) in (tuple, list):
        return all(_is_plain(item) for item in structure)
    if type(structure) is dict:
        return all(isinstance(k, str) and _is_plain(v) for k, v in structure.items())
    return isinstance(structure, fx.Node)


def _normalize_(module: fx.GraphModule) -> None:
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


def _normalize_node_(graph: fx.Graph, node: fx.Node) -> None:
    name = str(node.target)
    if "_assert" in name or "sym_constrain_range" in name:
        graph.erase_node(node)
        return
    if node.target in IDENTITY:
        _replace_(graph, node, node.args[0])
        return
    if _mutates(node) and _functional(node) is not None:
        written = node.args[0]
        node.target = _functional(node)
        written.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node and user > node)
    if node.target in SPELLING:
        if node.target is aten.relu6.default:
            node.args = (node.args[0], 0.0, 6.0)
        node.target = SPELLING[node.target]
    if node.target is aten.hardtanh.default:  # spell the default bounds out
        low, high = (*node.args[1:], *(-1.0, 1.0)[len(node.args) - 1 :])
        node.target, node.args = aten.clamp.default, (node.args[0], low, high)
    if node.target in (aten.conv1d.padding, aten.conv2d.padding):
        _explicit_padding_(node)
    if node.target is aten._native_batch_norm_legit_no_training.default:
        x, weight, bias, mean, var, momentum, eps = node.args
        node.target, node.args = aten.batch_norm.default, (x, weight, bias, mean, var, False, momentum, eps, False)
        for user in list(node.users):  # the op returns (output, mean, rstd); batch_norm returns the output
            _replace_(graph, user, node)


def _replace_(graph: fx.Graph, node: fx.Node, by: Any) -> None:
    node.replace_all_uses_with(by)
    graph.erase_node(node)


def _explicit_padding_(node: fx.Node) -> None:
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
        if not weights or shared or len(layer.users) > 1 or not same_channels:
            continue
        weight, bias = _folded(module, layer, norm)
        with graph.inserting_before(layer):
            weight_node = _parameter_(module, layer.args[1].target, weight)
            bias_name = layer.args[1].target.removesuffix("weight") + "bias"
            bias_node = _parameter_(module, bias_name, bias)
        for new in (weight_node, bias_node):
            new.meta["val"] = fx_value(module, new)
        layer.args = (layer.args[0], weight_node, bias_node, *layer.args[3:])
        _replace_(graph, norm, norm.args[0])
    graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    _delete_unused_tensors_(module)
    module.recompile()


def fx_value(module: nn.Module, node: Any) -> Tensor:
    """The parameter or buffer that a `get_attr` node reads."""
    value: Any = module
    for part in node.target.split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor)
    return value


def _behind_flatten(node: fx.Node) -> fx.Node:
    """The linear layer whose rows a `flatten(0, 1)` merges before a batch norm (LeViT); otherwise the node itself."""
    if node.target is aten.flatten.using_ints and node.args[1:] == (0, 1) and len(node.users) == 1:
        source = node.args[0]
        if isinstance(source, fx.Node) and source.target is aten.linear.default and _dims(source) == 3:
            return source
    return node


def _dims(node: fx.Node) -> int:
    return int(node.meta["val"].dim())


def _folded(module: fx.GraphModule, layer: fx.Node, norm: fx.Node) -> tuple[Tensor, Tensor]:
    values = [fx_value(module, n).detach().double() if n is not None else None for n in norm.args[1:5]]
    gamma, beta, mean, var = values
    assert mean is not None and var is not None
    factor = torch.rsqrt(var + float(norm.args[7])) * (gamma if gamma is not None else 1.0)  # type: ignore[arg-type]
    weight = fx_value(module, layer.args[1]).detach()
    old_bias = layer.args[2] if len(layer.args) > 2 else None
    bias = fx_value(module, old_bias).detach().double() if old_bias is not None else torch.zeros_like(mean)
    new_weight = weight.double() * factor.reshape(-1, *([1] * (weight.dim() - 1)))
    new_bias = (bias - mean) * factor + (beta if beta is not None else 0.0)
    return new_weight.to(weight.dtype), new_bias.to(weight.dtype)


def _parameter_(module: fx.GraphModule, name: str, value: Tensor) -> fx.Node:
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


def _check(model: nn.Module, module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> None:
    """The graph must compute what the model computes, up to the rounding of the folded batch norms."""
    with torch.no_grad():
        expected = pytree.tree_leaves(model(*inputs))
        got = pytree.tree_leaves(module(*inputs))
    for e, g in zip(expected, got, strict=True):
        size = float(e.float().abs().max()) if e.numel() else 0.0
        error = float((e.float() - g.float()).abs().max()) if e.numel() else 0.0
        if not error <= 1e-3 * size + 1e-5 and bool(torch.isfinite(e.float()).all()):
            raise CaptureError(
                f"the captured graph of {type(model).__name__} differs from the model by {error:.3g} (values up to "
                f"{size:.3g}). The model is not deterministic in eval mode, or changes itself in forward."
            )
