"""A program holds what its output depends on, in plain containers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from qat.quantization.program.program import Node, Ref, TensorRef, leaves


def alive(nodes: list[Node], output: object, tensors: dict[str, Tensor]) -> tuple[list[Node], dict[str, Tensor]]:
    """The nodes and tensors that the output depends on."""
    needed = {leaf.name for leaf in leaves(output) if isinstance(leaf, Ref)}
    kept: list[Node] = []
    used: set[str] = set()
    for node in reversed(nodes):
        if node.name in needed:
            kept.append(node)
            for leaf in leaves((node.args, tuple(node.kwargs.values()))):
                if isinstance(leaf, Ref):
                    needed.add(leaf.name)
                elif isinstance(leaf, TensorRef):
                    used.add(leaf.name)
    return kept[::-1], {name: value for name, value in tensors.items() if name in used}


def plain(value: object) -> Any:
    """fx's immutable containers as plain tuples, lists and dicts."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value
