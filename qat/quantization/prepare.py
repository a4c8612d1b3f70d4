"""Prepare: a model -> the same model as one graph with fake quantization in it, trainable.

capture -> place -> insert. The result is an ordinary `nn.Module`: give it to any optimizer and any training loop, in `train()`
and `eval()` as usual.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from qat.errors import ConfigError, ConvertError, near
from qat.quantization.convertible import check_convertible
from qat.quantization.graph.capture import Captured, DynamicDims, ExampleInputs, Traced, trace
from qat.quantization.graph.dropout import put_back_dropouts_, take_out_dropouts_
from qat.quantization.graph.nodes import GraphNode, argument, constant_value, layer_name
from qat.quantization.kernel_table import Kernel, Role
from qat.quantization.layouts import Layout, frame_of
from qat.quantization.placement import Placement, place
from qat.quantization.prepared import PreparedModel
from qat.quantization.qconfig import QConfig, QConfigs, chosen_for, described, kept_float
from qat.quantization.targets import TARGETS, Target, get_target, renamed


def prepare(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    target: str = "x86",
    observer: str = "histogram",
    keep_float: Sequence[str] = (),
    qconfig: QConfigs | None = None,
    dynamic_dims: DynamicDims | None = None,
    dropout: bool = True,
    traced: Traced | None = None,
    backend: str | None = None,
) -> PreparedModel:
    """Capture `model`, fold its batch norms and place fake quantization for `target`; `model` is left alone.

    Args:
        example_inputs: a tuple of positional arguments, a dict of keyword arguments, or the only input; used for their shapes,
            dtypes and numeric checks. See `trace`.
        target: `x86`, `x86_vnni`, `arm` or `any`, see `targets.py`.
        observer: `moving_average`, `minmax` or `histogram`.
        keep_float: shell-style patterns over dotted layer names that must stay float.
        qconfig: other fake quantization than the default's, for all layers or by pattern, see `QConfig`; None as the value of a
            pattern is the same as naming it in `keep_float`.
        dynamic_dims: see `trace`.
        dropout: drop in training what the model drops in training; what cannot be taken over is logged.
        traced: of an earlier `trace` of this model, whose weights alone may have changed since; saves tracing it again.
        backend: taken by an earlier qat; refused with what it is called now.

    Raises:
        CaptureError, ConfigError, KeepFloatError: see their messages.
        ConvertError: nothing in the model can run as INT8, or `convert` could not write a program of it.
    """
    if backend is not None:
        raise ConfigError(
            f"prepare takes target=NAME instead of backend={backend!r}.{renamed(backend) or near(backend, TARGETS)}"
        )
    made_for = get_target(target)
    captured = (traced or trace(model, example_inputs, dynamic_dims=dynamic_dims)).captured(model)
    dropouts = take_out_dropouts_(captured.module.graph)
    placement = place(captured.module.graph, made_for, keep_float=[*keep_float, *kept_float(qconfig)])
    if not any(kernel.role is Role.COMPUTE for kernel in placement.kernels.values()):
        raise ConvertError(
            f"no layer of {type(model).__name__} can run as INT8 on {target!r}: "
            + "; ".join(sorted(set(placement.reasons.values())))[:300]
        )
    default = QConfig.of(observer)
    insert_fake_quantize_(captured, placement, partial(chosen_for, qconfig=qconfig, default=default), target=made_for)
    put_back_dropouts_(captured.module, dropouts if dropout else [])
    prepared = PreparedModel(
        captured.module,
        inputs=captured.inputs,
        placement=placement,
        target=target,
        scheme=_scheme(target, observer, placement, qconfig),
        form=captured.form,
    )
    check_convertible(prepared)
    return prepared.train(model.training)


def insert_fake_quantize_(
    captured: Captured, placement: Placement, choose: Callable[[str], QConfig], *, target: Target
) -> None:
    """Put fake quantization behind every tensor of `placement.grids`, on every INT8 weight (once, where layers share it) and
    behind every look-up in an INT8 table, as `choose` says for their layers."""
    network, graph = captured.module, captured.module.graph
    activations, weights = (_unused(network, group) for group in ("fake_quantize", "weight_fake_quantize"))
    for node in list(graph.nodes):
        kernel = placement.kernels.get(node.name)
        if kernel is not None and kernel.role is Role.COMPUTE and node.args[1].op != "call_module":
            sharers = _sharers(node, network, placement.kernels, target)
            module = choose(layer_name(node)).weight(bounded_layouts(node, network, target))
            _insert_(network, node.args[1], f"{weights}.{node.name}", module, sharers)
        tensor = node
        if kernel is not None and kernel.role is Role.LOOKUP:
            table = choose(layer_name(node)).table()
            tensor = _insert_(network, node, f"{weights}.{node.name}", table, set(node.users))
        if node.name in placement.grids:
            users = set(tensor.users)
            if node.name not in placement.integers:  # a float tensor: only the integer kernels see the rounded one
                users = {user for user in users if user.name in placement.kernels}
            _insert_(network, tensor, f"{activations}.{node.name}", choose(layer_name(node)).activation(), users)
    graph.lint()
    network.recompile()


def _unused(network: nn.Module, group: str) -> str:
    """A name for a group of modules that the model has no other use for."""
    while hasattr(network, group):
        group += "_"
    return group


def _sharers(node: GraphNode, network: nn.Module, kernels: Mapping[str, Kernel], target: Target) -> set[GraphNode]:
    """The layers that can take the same rounded weight as `node`, itself among them."""
    layouts = bounded_layouts(node, network, target)
    layers = (user for user in node.args[1].users if user.name in kernels and kernels[user.name].role is Role.COMPUTE)
    return {user for user in layers if bounded_layouts(user, network, target) == layouts}


def bounded_layouts(node: GraphNode, network: nn.Module, target: Target) -> tuple[Layout, ...]:
    """The layouts of a layer's weight, rounded already or not, in which the target bounds neighbours."""
    stored = node.args[1] if node.args[1].op != "call_module" else node.args[1].args[0]
    op, weight = str(node.target), constant_value(network, stored)
    if "linear" in op:
        return target.layouts(op, weight, 1)
    source = node.args[0]
    while source.target is torch.ops.aten.detach.default:  # no op of the program
        source = source.args[0]
    groups: Any = argument(node, 6, "groups", 1)
    dilation: Any = argument(node, 5, "dilation", (1,))
    pads = source.args[1] if str(source.target) == "aten.pad.default" else ()
    frame = frame_of(weight, groups=groups, dilation=(dilation,) if isinstance(dilation, int) else dilation, pads=pads)
    return target.layouts(op, weight, groups, frame)


def _insert_(network: fx.GraphModule, tensor: Any, name: str, module: nn.Module, users: set[GraphNode]) -> GraphNode:
    """Put a module behind a tensor, for these users of it; the node that calls it."""
    group, leaf = name.split(".")
    name = f"{group}.{leaf}_" if hasattr(nn.Module, leaf) else name  # a tensor may be called `to`
    network.add_submodule(name, module)
    with network.graph.inserting_after(tensor):
        call = network.graph.call_module(name, (tensor,))
    call.meta = {key: tensor.meta[key] for key in ("val", "nn_module_stack") if key in tensor.meta}
    tensor.replace_all_uses_with(call, delete_user_cb=lambda user: user in users)
    return call


def _scheme(target: str, observer: str, placement: Placement, qconfig: QConfigs | None) -> dict[str, object]:
    named = described(qconfig)
    return {
        **({} if named is None else {"qconfig": named}),
        "target": target,
        "observer": observer,
        "kernels": sorted(placement.kernels),
        "grids": sorted(placement.grids),
    }
