"""Transposed convolutions whose windows do not overlap are convolutions of one pixel and a pixel shuffle.

    y[o, k h + i, k w + j] = b[o] + sum_c x[c, h, w] weight[c, o, i, j]        (kernel k x k, stride k, no padding)

The convolution has O k k outputs, one for each place (i, j) in a window; `pixel_shuffle(k)` puts them there. The weight stays
that of the model, turned in the graph, and trains as before.

Reference: Shi et al. 2016, arXiv:1609.05158; Shi et al. 2016, arXiv:1609.07009, section 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from qat.quantization.graph.nodes import GraphNode, argument, constants, replace_

aten = torch.ops.aten


def shuffle_transposed_(module: fx.GraphModule) -> None:
    """Rewrite them; a kernel needs square windows, as `pixel_shuffle` has them."""
    graph, fixed = module.graph, constants(module.graph)
    for node in [n for n in graph.nodes if n.target is aten.conv_transpose2d.input and n.args[1].name in fixed]:
        bias = argument(node, 2, "bias")
        if _tiles(node) and (bias is None or bias.name in fixed):
            _rewrite_(graph, node, bias)
    module.recompile()


def _tiles(node: GraphNode) -> bool:
    """Whether every output pixel lies in one window, and windows are square."""
    height, width = node.args[1].meta["val"].shape[2:]
    plain = {"stride": (3, height), "padding": (4, 0), "output_padding": (5, 0), "dilation": (7, 1)}
    defaults = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1}
    given = {name: argument(node, position, name, defaults[name]) for name, (position, _) in plain.items()}
    same = all({*(value if isinstance(value, list | tuple) else [value])} == {plain[name][1]} for name, value in given.items())
    return bool(height == width and height > 1 and same and argument(node, 6, "groups", 1) == 1)


def _rewrite_(graph: fx.Graph, node: GraphNode, bias: GraphNode | None) -> None:
    x, weight = node.args[:2]
    value = weight.meta["val"]
    inputs, outputs, k = value.shape[0], value.shape[1], value.shape[2]
    with graph.inserting_before(node):
        turned = _call(graph, node, aten.permute.default, weight, [1, 2, 3, 0])
        rows = _call(graph, node, aten.reshape.default, turned, [outputs * k * k, inputs, 1, 1])
        if bias is not None:
            bias = _call(graph, node, aten.repeat_interleave.self_int, bias, k * k)
        pixels = _call(graph, node, aten.conv2d.default, x, rows, bias)
        shuffled = _call(graph, node, aten.pixel_shuffle.default, pixels, k)
    shuffled.meta = dict(node.meta)
    replace_(graph, node, shuffled)


def _call(graph: fx.Graph, origin: GraphNode, op: torch._ops.OpOverload, *args: Any) -> GraphNode:
    """One op with the value that it has, in the layer that `origin` is of."""
    node = graph.call_function(op, args)
    known = fx.node.map_arg(args, lambda n: n.meta["val"])
    node.meta = {**origin.meta, "val": op(*known)}
    return node
