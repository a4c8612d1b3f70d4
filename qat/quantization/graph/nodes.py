"""Small readings of an fx graph that several steps share."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn

#: An `fx.Node`. fx types its arguments as a union of everything; graph code knows better.
GraphNode: TypeAlias = Any


#: Key of a node's `meta`: the kind of a dropout, see `dropout.py`.
DROPS = "drops"

#: Ops that choose: a rounding may exchange two values of nearly equal rank, and with them whatever they pick.
CHOOSING = ("topk", "sort", "argsort", "argmax", "argmin")


def chooses(node: GraphNode) -> bool:
    """Whether a node ranks values and says where they stand."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.name.removeprefix("aten::") in CHOOSING


def argument(node: GraphNode, position: int, name: str, default: object = None) -> Any:
    """An argument of an ATen call, wherever it stands."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def layer_name(node: GraphNode) -> str:
    """Dotted name of the innermost module that `node` comes from; '' for the model itself."""
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][0]) if stack else ""


def enclosing(layer: str) -> list[str]:
    parts = layer.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def fx_value(module: nn.Module, node: Any) -> Tensor:
    """The parameter or buffer that a `get_attr` node reads."""
    value: object = module
    for part in node.target.split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor)
    return value


def constants(graph: fx.Graph) -> set[str]:
    """Names of the nodes that depend on parameters, buffers and numbers only: computed once, at convert."""
    found: set[str] = set()
    for node in graph.nodes:
        if node.op == "get_attr" or (
            node.op == "call_function" and all(source.name in found for source in node.all_input_nodes)
        ):
            found.add(node.name)
    return found


def constant_value(module: nn.Module, node: GraphNode) -> Tensor:
    """What one of the `constants` is with the parameters as they are now: of a parametrized weight the weight itself."""
    known: dict[GraphNode, object] = {}

    def value(node: GraphNode) -> Any:
        if node not in known:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
            known[node] = fx_value(module, node) if node.op == "get_attr" else node.target(*args, **kwargs)
        return known[node]

    found = value(node)
    assert isinstance(found, Tensor)
    return found


def stored_name(node: GraphNode) -> str:
    """The name of a weight: in the state dict, or where it is computed from others that of the node that computes it."""
    return str(node.target if node.op == "get_attr" else node.name)


def quantized_tensor(call: GraphNode) -> GraphNode:
    """The tensor that a fake quantization rounds; what was looked up in a table is rounded as a table first."""
    source = call.args[0]
    return source.args[0] if source.op == "call_module" else source


def replace_(graph: fx.Graph, node: GraphNode, by: object) -> None:
    """Give every user of `node` the value `by` instead, and drop `node`."""
    node.replace_all_uses_with(by)
    graph.erase_node(node)


def drop_dead_(graph: fx.Graph) -> None:
    """Drop what nothing reads. fx keeps random ops, as dropout is one; a graph in the one dialect has outputs alone."""
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))


def rebind_device_(network: fx.GraphModule, device: torch.device) -> None:
    """Let every node that makes a tensor on a device of its own (`arange`, `full`, ...) make it on `device`."""
    nodes = [node for node in network.graph.nodes if node.kwargs.get("device", device) not in (device, None)]
    for node in nodes:
        node.kwargs = {**node.kwargs, "device": device}
    if nodes:
        network.recompile()


def ordered_kwargs(node: GraphNode) -> tuple[object, ...]:
    """Keyword arguments of a FOLLOW op in schema order; only ops whose kwargs continue their args have any."""
    if not node.kwargs:
        return ()
    names = [a.name for a in node.target._schema.arguments]
    return tuple(
        node.kwargs[name] for name in names[len(node.args) :] if name in node.kwargs and name not in ("dtype", "alpha")
    )
