"""Regions that torch.export keeps as a graph of their own (`torch.no_grad`, disabled `torch.autocast`), put back in line."""

from __future__ import annotations

import operator

from torch import fx

from qat.errors import CaptureError
from qat.quantization.graph.nodes import GraphNode, replace_


def inline_regions_(module: fx.GraphModule) -> None:
    """Replace every wrapped region by its nodes, innermost last.

    Raises:
        CaptureError: a region computes under an enabled autocast, whose precision INT8 conversion would hide.
    """
    graph = module.graph
    while regions := [node for node in graph.nodes if _is_region(node)]:
        for node in regions:
            _inline_(module, node)
    module.recompile()


def _is_region(node: GraphNode) -> bool:
    return node.op == "call_function" and str(node.target) in ("wrap_with_autocast", "wrap_with_set_grad_enabled")


def _inline_(module: fx.GraphModule, node: GraphNode) -> None:
    position = next(i for i, arg in enumerate(node.args) if isinstance(arg, fx.Node) and arg.op == "get_attr")
    if str(node.target) == "wrap_with_autocast" and node.args[2]:
        raise CaptureError(
            "the model switches autocast on inside its forward. Remove that block; the precision of training is set by "
            "the trainer, and the captured network computes in float32 and INT8."
        )
    region = getattr(module, str(node.args[position].target))
    inputs = [inner for inner in region.graph.nodes if inner.op == "placeholder"]
    copied = dict(zip(inputs, node.args[position + 1 :], strict=True))
    for inner in region.graph.nodes:  # what the region itself refers to
        if inner.op == "get_attr" and not hasattr(module, str(inner.target)):
            setattr(module, str(inner.target), getattr(region, str(inner.target)))
    with module.graph.inserting_before(node):
        results = module.graph.graph_copy(region.graph, copied)
    for user in list(node.users):
        if user.target is not operator.getitem:
            raise CaptureError(f"region {node.name!r} is used as a whole by {user.name!r}")
        replace_(module.graph, user, results[user.args[1]] if isinstance(results, list | tuple) else results)
    module.graph.erase_node(node)
