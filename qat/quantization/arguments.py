"""Arguments of graph nodes on their way into a program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from qat.quantization.graph.nodes import GraphNode

#: Arguments that say where and how memory is laid out; a program runs on the CPU.
IGNORED = ("device", "pin_memory", "layout", "non_blocking")


def map_nodes(value: Any, function: Callable[[Any], Any]) -> Any:
    """`value` with every graph node in it replaced."""
    return fx.node.map_arg(value, function)


def convolution_settings(node: GraphNode, dims: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    """Stride, padding and dilation of a convolution over `dims` dimensions, and its groups."""
    given: list[Any] = list(node.args[3:])
    stride, padding, dilation, groups = given + [1, 0, 1, 1][len(given) :]
    return _tuple(stride, dims), _tuple(padding, dims), _tuple(dilation, dims), groups


def _tuple(value: Any, dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value) * (dims if len(value) == 1 else 1)
