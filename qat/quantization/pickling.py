"""A prepared network as data. fx pickles its code and traces it again, which invents other names for nodes, and other nodes.

Placement, ranges and checkpoints go by the names, so the graph is written node by node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload

from qat.quantization.graph.nodes import GraphNode
from qat.quantization.program.program import Ref, map_leaves

#: Shape and dtype of a tensor, or of each tensor of a list; None for anything else.
Described = tuple[tuple[int, ...], torch.dtype] | list[Any] | None


@dataclass(frozen=True)
class NodeRecord:
    """A node of a graph. A target of ATen is written by its name."""

    op: str
    name: str
    target: str | Callable[..., object]
    args: tuple[object, ...]
    kwargs: dict[str, object]
    stack: tuple[tuple[str, str], ...]
    value: Described


@dataclass(frozen=True)
class NetworkRecord:
    """A network: its nodes, and a module that holds its tensors and submodules."""

    nodes: tuple[NodeRecord, ...]
    root: nn.Module


def record_of(network: fx.GraphModule) -> NetworkRecord:
    """The network as data that pickles; tensors and modules are the network's own."""
    root = nn.Module()
    root._parameters.update(network._parameters)
    root._buffers.update(network._buffers)
    root._modules.update(network._modules)
    for name, value in vars(network).items():
        if isinstance(value, Tensor):
            setattr(root, name, value)
    root.training = network.training
    return NetworkRecord(tuple(map(_record, network.graph.nodes)), root)


def network_of(record: NetworkRecord) -> fx.GraphModule:
    """The network that was recorded."""
    graph = fx.Graph()
    made: dict[str, GraphNode] = {}
    for node in record.nodes:
        args, kwargs = map_leaves((node.args, node.kwargs), lambda leaf: made[leaf.name] if isinstance(leaf, Ref) else leaf)
        target = _op(node.target) if node.op == "call_function" else node.target
        new = made[node.name] = graph.create_node(node.op, target, args, kwargs, name=node.name)
        new.meta = {"val": _like(node.value), "nn_module_stack": {key: (path, None) for key, path in node.stack}}
    network = fx.GraphModule(record.root, graph)
    network._parameters, network._buffers = record.root._parameters, record.root._buffers  # in their order: averages and
    network._modules = record.root._modules  # optimizers go by it
    network.training = record.root.training
    return network


def _record(node: GraphNode) -> NodeRecord:
    return NodeRecord(
        op=node.op,
        name=node.name,
        target=str(node.target) if isinstance(node.target, OpOverload) else node.target,
        args=map_leaves(node.args, _reference),
        kwargs=map_leaves(node.kwargs, _reference),
        stack=tuple((str(key), str(entry[0])) for key, entry in (node.meta.get("nn_module_stack") or {}).items()),
        value=_described(node.meta.get("val")),
    )


def _reference(leaf: object) -> object:
    return Ref(leaf.name) if isinstance(leaf, fx.Node) else leaf


def _op(target: str | Callable[..., object]) -> Callable[..., object]:
    if not isinstance(target, str):
        return target
    namespace, name, overload = target.split(".")
    found: Callable[..., object] = getattr(getattr(getattr(torch.ops, namespace), name), overload)
    return found


def _described(value: object) -> Described:
    if isinstance(value, Tensor):
        return tuple(_size(n) for n in value.shape), value.dtype
    return [_described(entry) for entry in value] if isinstance(value, list | tuple) else None


def _size(n: Any) -> int:
    """A size, of a free dimension the one of the example; 2 where the data alone say it."""
    return n if isinstance(n, int) else int(n.node.hint or 2)


def _like(value: Described) -> object:
    if isinstance(value, list):
        return [_like(entry) for entry in value]
    return None if value is None else torch.empty(value[0], dtype=value[1], device="meta")
