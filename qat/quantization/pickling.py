"""A prepared network that was pickled: fx writes its code and traces it again, which invents other names for the nodes.

Placement, ranges and checkpoints go by the names, so they are written along and given back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from qat.quantization.graph.nodes import GraphNode

#: Shape and dtype of a tensor, or of each tensor of a list; None for anything else.
Described = tuple[tuple[int, ...], torch.dtype] | list[Any] | None


@dataclass(frozen=True)
class NodeRecord:
    """What tracing again does not find out about a node."""

    name: str
    stack: tuple[tuple[str, str], ...]
    value: Described


def node_records(network: fx.GraphModule) -> list[NodeRecord]:
    """One per node, in the order in which the code is traced again: inputs first."""
    return [NodeRecord(node.name, _stack(node), _described(node.meta.get("val"))) for node in _in_order(network)]


def restore_names_(network: fx.GraphModule, records: list[NodeRecord]) -> None:
    """Give the nodes of a network that was traced again their names, layers and the shapes of their values."""
    traced = _in_order(network)
    if [node.name for node in traced] == [record.name for record in records]:
        return
    graph = fx.Graph()
    made: dict[GraphNode, GraphNode] = {}
    for node, record in zip(traced, records, strict=True):
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: made[n])
        new = made[node] = graph.create_node(node.op, node.target, args, kwargs, name=record.name)
        new.meta = {"val": _like(record.value), "nn_module_stack": {key: (path, None) for key, path in record.stack}}
    network.graph = graph


def _in_order(network: fx.GraphModule) -> list[GraphNode]:
    return sorted(network.graph.nodes, key=lambda node: node.op != "placeholder")


def _stack(node: GraphNode) -> tuple[tuple[str, str], ...]:
    return tuple((str(key), str(entry[0])) for key, entry in (node.meta.get("nn_module_stack") or {}).items())


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
