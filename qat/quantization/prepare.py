"""Prepare: a model -> the same model as one graph with fake quantization in it, trainable.

capture -> place -> insert. The result is an ordinary `nn.Module`: give it to any optimizer and any training loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn

from qat.errors import ConvertError, SchemeError
from qat.quantization.backend import TARGETS, Backend, Kernel, Role, Saturation, argument, choose_target, get_backend
from qat.quantization.capture import Captured, InputSpec, capture
from qat.quantization.fake_quantize import EmbeddingFakeQuantize, FakeQuantize, StoredFakeQuantize, WeightFakeQuantize
from qat.quantization.graph import GraphNode, fx_value, rebind_device_
from qat.quantization.observer import make_observer
from qat.quantization.placement import Placement, place


class PreparedModel(nn.Module):
    """A captured network with fake quantization placed for one backend.

    Args:
        network: the graph; convolutions, linear layers and float ops are still ATen calls on float tensors.
        inputs: what it takes.
        placement: what runs as integers after `convert`.
        backend: name of the kernel table.
        target: target profile whose saturation rules the weights obey.
        scheme: everything that decides where and how the model is quantized; a checkpoint only loads into the same one.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        *,
        inputs: tuple[InputSpec, ...],
        placement: Placement,
        backend: str,
        target: str,
        scheme: dict[str, Any],
    ) -> None:
        super().__init__()
        self.network = network
        self.inputs = inputs
        self.placement = placement
        self.backend = backend
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

    def get_extra_state(self) -> str:
        return json.dumps(self.scheme, sort_keys=True)

    def set_extra_state(self, state: str) -> None:
        stored = json.loads(state)
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


def prepare(
    model: nn.Module,
    example_inputs: Sequence[Tensor],
    *,
    backend: str = "fbgemm",
    target: str | None = None,
    observer: str = "moving_average",
    keep_float: Sequence[str] = (),
    dynamic_dims: Sequence[Sequence[int]] | None = None,
) -> PreparedModel:
    """Capture `model`, fold its batch norms and place fake quantization for `backend`; `model` is left alone.

    Args:
        example_inputs: positional inputs, used for their shapes, dtypes and one numeric check.
        backend: `fbgemm`, `x86` or `qnnpack`.
        target: `vnni`, `avx2` or `arm`; None takes the backend's default.
        observer: `moving_average`, `minmax` or `histogram`.
        keep_float: shell-style patterns over dotted layer names that must stay float.
        dynamic_dims: see `capture`.

    Raises:
        CaptureError, ConfigError, KeepFloatError: see their messages.
        ConvertError: nothing in the model can run as INT8.
    """
    table = get_backend(backend)
    profile = choose_target(table, target)
    captured = capture(model, example_inputs, dynamic_dims=dynamic_dims)
    placement = place(captured.module.graph, table, keep_float=keep_float)
    if not any(kernel.role is Role.COMPUTE for kernel in placement.kernels.values()):
        raise ConvertError(
            f"no layer of {type(model).__name__} can run as INT8 on {backend!r}: "
            + "; ".join(sorted(set(placement.reasons.values())))[:300]
        )
    insert_fake_quantize_(captured, placement, observer=observer, target=profile)
    return PreparedModel(
        captured.module,
        inputs=captured.inputs,
        placement=placement,
        backend=table.name,
        target=profile,
        scheme=_scheme(table, profile, observer, placement),
    )


def insert_fake_quantize_(captured: Captured, placement: Placement, *, observer: str, target: str) -> None:
    """Put a `FakeQuantize` behind every tensor of `placement.grids`, a `WeightFakeQuantize` on every INT8 weight (once,
    where layers share it) and an `EmbeddingFakeQuantize` behind every look-up in an INT8 table."""
    network, graph = captured.module, captured.module.graph
    for node in list(graph.nodes):
        kernel = placement.kernels.get(node.name)
        if kernel is not None and kernel.role is Role.COMPUTE and node.args[1].op == "get_attr":
            sharers = _sharers(node, network, placement.kernels, TARGETS[target])
            bound = needs_pair_bound(node, network, TARGETS[target])
            _insert_(network, node.args[1], f"weight_fake_quantize.{node.name}", WeightFakeQuantize(pair_bound=bound), sharers)
        if kernel is not None and kernel.role is Role.LOOKUP:
            _insert_(network, node, f"weight_fake_quantize.{node.name}", EmbeddingFakeQuantize(), set(node.users))
        if node.name in placement.grids:
            users = set(node.users)
            if node.name not in placement.integers:  # a float tensor: only the integer kernels see the rounded one
                users = {user for user in users if user.name in placement.kernels}
            _insert_(network, node, f"fake_quantize.{node.name}", FakeQuantize(make_observer(observer)), users)
    graph.lint()
    network.recompile()


def _sharers(node: GraphNode, network: nn.Module, kernels: Mapping[str, Kernel], saturation: Saturation) -> set[GraphNode]:
    """The layers that can take the same rounded weight as `node`, itself among them."""
    bound = needs_pair_bound(node, network, saturation)
    layers = (user for user in node.args[1].users if user.name in kernels and kernels[user.name].role is Role.COMPUTE)
    return {user for user in layers if needs_pair_bound(user, network, saturation) == bound}


def needs_pair_bound(node: GraphNode, network: nn.Module, saturation: Saturation) -> bool:
    """Whether the target's kernel for this layer adds pairs of products in 16 bits.

    Depthwise means one input channel per group, whatever the number of outputs: FBGEMM's depthwise kernels also take a
    channel multiplier of 2.
    """
    if saturation is Saturation.DEPTHWISE:
        groups = argument(node, 6, "groups", 1) if "conv" in str(node.target) else 1
        return groups != 1 and fx_value(network, node.args[1]).shape[1] == 1
    return saturation is Saturation.ALWAYS


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


def _scheme(table: Backend, target: str, observer: str, placement: Placement) -> dict[str, Any]:
    return {
        "backend": table.name,
        "target": target,
        "observer": observer,
        "kernels": sorted(placement.kernels),
        "grids": sorted(placement.grids),
    }
