"""Placement: which ops run as integers and which tensors live on a grid, decided from the kernel table alone.

Two sweeps over the captured graph:

1. forwards, `on_grid`: could the output be integers without an extra quantize step? Convolutions say yes; an op that
   follows (add, pool, hardswish) says yes when all its inputs do; a shape op says what its input says.
2. backwards, `wanted`: does a consumer take integers? Convolutions and linear layers want their input; an op that could
   follow does so only when somebody wants its output. A residual stream that only float ops read stays float.

A linear layer that may return either (FBGEMM) returns a grid only when nothing but other integer layers reads it.

Every tensor gets at most one fake_quantize, shared by all its consumers. `conv + relu` is one kernel: the fake_quantize
stands behind the activation and the clamp of its grid *is* the activation.
"""

from __future__ import annotations

import fnmatch
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from qat.errors import KeepFloatError, near
from qat.quantization.graph.nodes import GraphNode, argument, constants, enclosing, layer_name
from qat.quantization.kernel_table import Kernel, Output, Role, absorbable
from qat.quantization.targets import Target


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What placement decided, by node name of the captured graph.

    Args:
        kernels: nodes that run as integers (inside a chain: between integers).
        absorbed: activation -> the kernel whose output grid stands for it.
        integers: nodes whose output is integers (the others return float).
        grids: nodes whose output has a fake_quantize of its own; shape ops share their input's.
        reasons: tensor ops that stay float, with the reason.
    """

    kernels: Mapping[str, Kernel]
    absorbed: Mapping[str, str]
    integers: frozenset[str]
    grids: frozenset[str]
    reasons: Mapping[str, str]


def place(graph: fx.Graph, target: Target, *, keep_float: Sequence[str] = ()) -> Placement:
    """Decide for every node of a captured graph whether it runs as integers.

    Args:
        keep_float: shell-style patterns over dotted layer names; everything inside a matching layer stays float.

    Raises:
        KeepFloatError: a pattern matches no layer.
    """
    able, reasons = _able(graph, target, _kept_float(graph, keep_float))
    absorbed = _absorbed(graph, able)
    on_grid = _forwards(graph, able, absorbed)
    wanted = _backwards(graph, able, absorbed, on_grid)

    kernels: dict[str, Kernel] = {}
    integers: set[str] = set()
    grids: set[str] = set()
    for node in graph.nodes:
        kernel = able.get(node.name)
        if node.name in absorbed:
            if absorbed[node.name] in integers:
                integers.add(node.name)
                grids.add(node.name)
                grids.discard(absorbed[node.name])
        elif kernel is not None and (
            kernel.role in (Role.COMPUTE, Role.LOOKUP) or node.name in on_grid & wanted or _picks_from(node, integers)
        ):
            kernels[node.name] = kernel
            grids |= {source.name for source in inputs_on_grid(node, kernel) if source.name not in integers}
            if node.name in on_grid:
                integers.add(node.name)
                if kernel.role is not Role.PASS:
                    grids.add(node.name)
        elif kernel is not None and kernel.role is Role.FOLLOW:
            reasons[node.name] = "an input or every consumer is float"
    chained = _chained(graph, kernels, absorbed)
    integers -= chained
    grids -= chained
    return Placement(
        kernels=kernels,
        absorbed={name: source for name, source in absorbed.items() if name in integers},
        integers=frozenset(integers),
        grids=frozenset(grids),
        reasons=reasons,
    )


def _chained(graph: fx.Graph, kernels: Mapping[str, Kernel], absorbed: Mapping[str, str]) -> set[str]:
    """Nodes that hand float to the next op of their chain: every consumer chains, and no activation is absorbed."""
    chains = {name for name, kernel in kernels.items() if kernel.chains}
    owners = set(absorbed.values())
    return {
        node.name
        for node in graph.nodes
        if node.name in chains - owners and node.users and all(user.name in chains for user in node.users)
    }


def _picks_from(node: GraphNode, integers: set[str]) -> bool:
    """Whether `node` takes one tensor out of a list (chunk, split) that is integers."""
    return node.target is operator.getitem and isinstance(node.args[0], fx.Node) and node.args[0].name in integers


def inputs_on_grid(node: GraphNode, kernel: Kernel) -> list[GraphNode]:
    """The tensors that `kernel` takes on a grid when it computes `node`."""
    found: list[GraphNode] = []
    for position in kernel.data:
        arg = node.args[position]
        found.extend(arg if isinstance(arg, list | tuple) else [arg])
    return found


def _able(graph: fx.Graph, target: Target, kept: set[str]) -> tuple[dict[str, Kernel], dict[str, str]]:
    """Nodes that have a kernel, and why the other tensor ops have none."""
    able: dict[str, Kernel] = {}
    reasons: dict[str, str] = {}
    fixed = constants(graph)
    for node in graph.nodes:
        if node.op != "call_function" or node.name in fixed or not _computes_floats(node):
            continue
        kernel = target.kernel(str(node.target))
        if node.name in kept:
            reasons[node.name] = "kept float by keep_float"
        elif kernel is None:
            reasons[node.name] = f"target {target.name} has no INT8 kernel for it"
        elif refusal := _computed_weight(node, kernel, fixed) or kernel.refusal(node):
            reasons[node.name] = refusal
        else:
            able[node.name] = kernel
    return able, reasons


def _computed_weight(node: GraphNode, kernel: Kernel, fixed: set[str]) -> str | None:
    """Why the weight, bias or table of a layer cannot be stored; what is made of parameters alone can."""
    parts = {Role.COMPUTE: {"weight": 1, "bias": 2}, Role.LOOKUP: {"table": 0}}.get(kernel.role, {})
    for name, position in parts.items():
        part = argument(node, position, name)
        if part is not None and not (isinstance(part, fx.Node) and part.name in fixed):
            return f"its {name} is computed from an input, not stored"
        if part is not None and name == "weight" and part.meta["val"].dim() < 2:
            return "its weight is a vector"
    return None


def _computes_floats(node: GraphNode) -> bool:
    value = node.meta.get("val")
    first = value[0] if isinstance(value, list | tuple) and value else value
    return hasattr(first, "dtype") and bool(first.dtype.is_floating_point)


def _kept_float(graph: fx.Graph, patterns: Sequence[str]) -> set[str]:
    """Nodes in layers that match a pattern, by the layer's own name or that of any module around it."""
    layers = {node.name: layer_name(node) for node in graph.nodes if node.op == "call_function"}
    kept: set[str] = set()
    for pattern in patterns:
        matches = {n for n, layer in layers.items() if any(fnmatch.fnmatchcase(p, pattern) for p in enclosing(layer))}
        if not matches:
            names = {layer for layer in layers.values() if layer}
            raise KeepFloatError(
                f"keep_float pattern {pattern!r} matches no layer.{near(pattern.rstrip('.*'), names)} "
                "Patterns are shell-style, over dotted layer names."
            )
        kept |= matches
    return kept


def _absorbed(graph: fx.Graph, able: Mapping[str, Kernel]) -> dict[str, str]:
    """Activations that are their producer's only user and can be the clamp of its output grid."""
    absorbed: dict[str, str] = {}
    for node in graph.nodes:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source.name not in able or len(source.users) > 1:
            continue
        if str(node.target) in able[source.name].absorbs and absorbable(node) and node.name in able:
            absorbed[node.name] = source.name
    return absorbed


def _forwards(graph: fx.Graph, able: Mapping[str, Kernel], absorbed: Mapping[str, str]) -> set[str]:
    on_grid: set[str] = set()
    for node in graph.nodes:
        kernel = able.get(node.name)
        if node.name in absorbed:
            natural = absorbed[node.name] in on_grid
        elif kernel is None:
            natural = False
        elif kernel.role is Role.COMPUTE:
            natural = kernel.output is Output.GRID or _only_feeds_layers(node, able, absorbed)
        elif kernel.output is Output.FLOAT:
            natural = False
        else:
            natural = all(source.name in on_grid for source in inputs_on_grid(node, kernel))
        if natural:
            on_grid.add(node.name)
    return on_grid


def _only_feeds_layers(node: GraphNode, able: Mapping[str, Kernel], absorbed: Mapping[str, str]) -> bool:
    """Whether every consumer, seen through activations and shape ops, is a convolution or linear layer."""
    if not node.users:
        return False
    for user in node.users:
        kernel = able.get(user.name)
        if user.name in absorbed or (kernel is not None and kernel.role is Role.PASS):
            if not _only_feeds_layers(user, able, absorbed):
                return False
        elif kernel is None or kernel.role is not Role.COMPUTE:
            return False
    return True


def _backwards(graph: fx.Graph, able: Mapping[str, Kernel], absorbed: Mapping[str, str], on_grid: set[str]) -> set[str]:
    """Nodes whose output some integer kernel takes."""
    wanted: set[str] = set()
    for node in reversed(graph.nodes):
        kernel = able.get(node.name)
        layer = kernel is not None and kernel.role is Role.COMPUTE and node.name not in absorbed
        if layer or ((kernel is not None or node.name in absorbed) and node.name in on_grid & wanted):
            sources = [node.args[0]] if node.name in absorbed else inputs_on_grid(node, able[node.name])
            wanted |= {source.name for source in sources if isinstance(source, fx.Node)}
    return wanted
