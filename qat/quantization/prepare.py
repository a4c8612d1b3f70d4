"""Prepare: a model -> the same model as one graph with fake quantization in it, trainable.

capture -> place -> insert. The result is an ordinary `nn.Module`: give it to any optimizer and any training loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from qat.errors import ConfigError, ConvertError, SchemeError, near
from qat.quantization.fake_quantize import EmbeddingFakeQuantize, FakeQuantize, StoredFakeQuantize, WeightFakeQuantize
from qat.quantization.graph.capture import Captured, InputSpec, capture
from qat.quantization.graph.nodes import GraphNode, fx_value, rebind_device_
from qat.quantization.kernel_table import Kernel, Role, argument
from qat.quantization.layouts import Layout, frame_of
from qat.quantization.observer import make_observer
from qat.quantization.placement import Placement, place
from qat.quantization.targets import TARGETS, Target, get_target, renamed


class PreparedModel(nn.Module):
    """A captured network with fake quantization placed for one target.

    Args:
        network: the graph; convolutions, linear layers and float ops are still ATen calls on float tensors.
        inputs: what it takes.
        placement: what runs as integers after `convert`.
        target: name of what it is made for, see `targets.py`.
        scheme: everything that decides where and how the model is quantized; a checkpoint only loads into the same one.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        *,
        inputs: tuple[InputSpec, ...],
        placement: Placement,
        target: str,
        scheme: dict[str, Any],
    ) -> None:
        super().__init__()
        self.network = network
        self.inputs = inputs
        self.placement = placement
        self.target = target
        self.scheme = scheme

    def forward(self, *inputs: Tensor) -> Any:
        return self.network(*inputs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PreparedModel:
        """Move to another device or dtype; `arange` and the like, whose device an exported graph pins, move along."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        rebind_device_(self.network, next(self.parameters()).device)
        return self

    def fake_quantizes(self) -> Iterator[tuple[str, FakeQuantize]]:
        """Every activation's fake quantization with the name of the tensor it stands behind."""
        for node in self.network.graph.nodes:
            if node.op == "call_module":
                module = self.network.get_submodule(node.target)
                if isinstance(module, FakeQuantize):
                    yield node.args[0].name, module

    def stored_fake_quantizes(self) -> Iterator[StoredFakeQuantize]:
        """The fake quantization of every stored weight and table."""
        return (module for module in self.modules() if isinstance(module, StoredFakeQuantize))

    def set_observing_(self, on: bool) -> None:
        """Let every observer update its range in forward, or freeze them all."""
        for _, module in self.fake_quantizes():
            module.observing = on

    def set_quantizing_(self, on: bool) -> None:
        """Round activations and weights in forward, or compute in plain float."""
        for _, module in self.fake_quantizes():
            module.quantizing = on
        for stored in self.stored_fake_quantizes():
            stored.quantizing = on

    def load_from_target_(self, state: Mapping[str, Any]) -> None:
        """Take over weights and ranges that were trained for another target with the same kernels.

        Raises:
            SchemeError: more than the target differs.
            RuntimeError: names or shapes that do not fit, as `load_state_dict` raises.
        """
        if "_extra_state" not in state:
            raise RuntimeError("it holds no quantization scheme: it is of no prepared model")
        retargeted = {**json.loads(state["_extra_state"]), "target": self.target}
        self.load_state_dict({**state, "_extra_state": json.dumps(retargeted)} if retargeted == self.scheme else state)

    def get_extra_state(self) -> str:
        return json.dumps(self.scheme, sort_keys=True)

    def set_extra_state(self, state: str) -> None:
        stored = json.loads(state)
        if "backend" in stored:  # before targets took the place of backends
            raise SchemeError(
                f"the checkpoint was trained by an earlier qat, for backend {stored['backend']!r}, target {stored['target']!r};"
                f"{renamed(stored['target']) or ''} Its FP32 stage is as good as ever: start a new run with baseline=RUN."
            )
        differences = [
            _difference(key, stored.get(key), self.scheme.get(key))
            for key in sorted(stored.keys() | self.scheme.keys())
            if stored.get(key) != self.scheme.get(key)
        ]
        if differences:
            raise SchemeError(
                "the checkpoint was trained with another quantization scheme:\n  "
                + "\n  ".join(d[:300] for d in differences)
                + "\nResume with the settings it was trained with, or start a new run from its weights."
            )


def target_of(state: Mapping[str, Any]) -> str | None:
    """The target that the state dict of a prepared model was trained for; None when it is of no prepared model."""
    return json.loads(state["_extra_state"]).get("target") if "_extra_state" in state else None


def prepare(
    model: nn.Module,
    example_inputs: Sequence[Tensor],
    *,
    target: str = "x86",
    observer: str = "moving_average",
    keep_float: Sequence[str] = (),
    dynamic_dims: Sequence[Sequence[int]] | None = None,
    backend: str | None = None,
) -> PreparedModel:
    """Capture `model`, fold its batch norms and place fake quantization for `target`; `model` is left alone.

    Args:
        example_inputs: positional inputs, used for their shapes, dtypes and one numeric check.
        target: `x86`, `x86_vnni`, `arm` or `any`, see `targets.py`.
        observer: `moving_average`, `minmax` or `histogram`.
        keep_float: shell-style patterns over dotted layer names that must stay float.
        dynamic_dims: see `capture`.
        backend: taken by an earlier qat; refused with what it is called now.

    Raises:
        CaptureError, ConfigError, KeepFloatError: see their messages.
        ConvertError: nothing in the model can run as INT8.
    """
    if backend is not None:
        raise ConfigError(
            f"prepare takes target=NAME instead of backend={backend!r}.{renamed(backend) or near(backend, TARGETS)}"
        )
    made_for = get_target(target)
    captured = capture(model, example_inputs, dynamic_dims=dynamic_dims)
    placement = place(captured.module.graph, made_for, keep_float=keep_float)
    if not any(kernel.role is Role.COMPUTE for kernel in placement.kernels.values()):
        raise ConvertError(
            f"no layer of {type(model).__name__} can run as INT8 on {target!r}: "
            + "; ".join(sorted(set(placement.reasons.values())))[:300]
        )
    insert_fake_quantize_(captured, placement, observer=observer, target=made_for)
    return PreparedModel(
        captured.module,
        inputs=captured.inputs,
        placement=placement,
        target=target,
        scheme=_scheme(target, observer, placement),
    )


def insert_fake_quantize_(captured: Captured, placement: Placement, *, observer: str, target: Target) -> None:
    """Put a `FakeQuantize` behind every tensor of `placement.grids`, a `WeightFakeQuantize` on every INT8 weight (once,
    where layers share it) and an `EmbeddingFakeQuantize` behind every look-up in an INT8 table."""
    network, graph = captured.module, captured.module.graph
    for node in list(graph.nodes):
        kernel = placement.kernels.get(node.name)
        if kernel is not None and kernel.role is Role.COMPUTE and node.args[1].op == "get_attr":
            sharers = _sharers(node, network, placement.kernels, target)
            module = WeightFakeQuantize(bounded_layouts(node, network, target))
            _insert_(network, node.args[1], f"weight_fake_quantize.{node.name}", module, sharers)
        if kernel is not None and kernel.role is Role.LOOKUP:
            _insert_(network, node, f"weight_fake_quantize.{node.name}", EmbeddingFakeQuantize(), set(node.users))
        if node.name in placement.grids:
            users = set(node.users)
            if node.name not in placement.integers:  # a float tensor: only the integer kernels see the rounded one
                users = {user for user in users if user.name in placement.kernels}
            _insert_(network, node, f"fake_quantize.{node.name}", FakeQuantize(make_observer(observer)), users)
    graph.lint()
    network.recompile()


def _sharers(node: GraphNode, network: nn.Module, kernels: Mapping[str, Kernel], target: Target) -> set[GraphNode]:
    """The layers that can take the same rounded weight as `node`, itself among them."""
    layouts = bounded_layouts(node, network, target)
    layers = (user for user in node.args[1].users if user.name in kernels and kernels[user.name].role is Role.COMPUTE)
    return {user for user in layers if bounded_layouts(user, network, target) == layouts}


def bounded_layouts(node: GraphNode, network: nn.Module, target: Target) -> tuple[Layout, ...]:
    """The layouts of a layer's weight, rounded already or not, in which the target bounds neighbours."""
    stored = node.args[1] if node.args[1].op == "get_attr" else node.args[1].args[0]
    op, weight = str(node.target), fx_value(network, stored)
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


def _insert_(network: fx.GraphModule, tensor: Any, name: str, module: nn.Module, users: set[GraphNode]) -> None:
    network.add_submodule(name, module)
    with network.graph.inserting_after(tensor):
        call = network.graph.call_module(name, (tensor,))
    call.meta = {key: tensor.meta[key] for key in ("val", "nn_module_stack") if key in tensor.meta}
    tensor.replace_all_uses_with(call, delete_user_cb=lambda user: user in users)


def _difference(key: str, stored: Any, own: Any) -> str:
    """One difference in words; of two lists of names only what the other lacks."""
    if isinstance(stored, list) and isinstance(own, list):
        stored, own = [name for name in stored if name not in own], [name for name in own if name not in stored]
        return f"{key}: checkpoint alone has {stored}, model alone has {own}"
    return f"{key}: checkpoint {stored!r}, model {own!r}"


def _scheme(target: str, observer: str, placement: Placement) -> dict[str, Any]:
    return {
        "target": target,
        "observer": observer,
        "kernels": sorted(placement.kernels),
        "grids": sorted(placement.grids),
    }
