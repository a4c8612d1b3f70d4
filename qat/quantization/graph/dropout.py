"""Dropout and stochastic depth: a prepared model drops in training where its model does.

They are traced (traced_dropout.py), taken out before tensors are placed on grids, and put back between a tensor (rounded
already) and those that read it. Nothing of them is deployed.

Reference: Srivastava et al. 2014, JMLR 15 (dropout); Huang et al. 2016, arXiv:1603.09382 (stochastic depth).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qat.quantization.graph.nodes import DROPS, GraphNode, constants, layer_name

#: What alpha dropout puts in the place of what it drops: SELU's limit.
ALPHA = -1.7580993408473766


def factors(x: Tensor, kind: str, p: float) -> tuple[Tensor, Tensor | None]:
    """What a dropout multiplies a tensor by, and what it adds, in shapes that broadcast to the tensor's."""
    if kind == "alpha":
        keep = torch.empty_like(x).bernoulli_(1 - p)
        a = ((1 - p) * (1 + p * ALPHA**2)) ** -0.5 if p < 1 else 0.0
        return keep * a, (1 - keep) * (a * ALPHA) - a * ALPHA * p
    own = {"elements": x.dim(), "channels": 2}.get(kind, 1)  # dimensions that are dropped one by one
    shape = (*x.shape[:own], *([1] * (x.dim() - own)))
    noise = F.dropout(torch.ones(shape, dtype=x.dtype, device=x.device), p, True)
    return noise * (1 - p) if kind == "rows, unscaled" else noise, None


class Dropout(nn.Module):
    """Drops in training.

    Args:
        kind: `elements`, `channels` (of a sample), `rows` (whole samples), `rows, unscaled`, or `alpha`.
        p: the share that is dropped.
    """

    def __init__(self, kind: str, p: float) -> None:
        super().__init__()
        self.kind = kind
        self.p = p

    def forward(self, x: Tensor, mask: tuple[Tensor, Tensor | None] | None = None) -> Tensor:
        """Args: mask: of a tensor that others read as well, see `DropoutMask`."""
        if not self.training:
            return x
        if mask is None and self.kind == "elements":
            return F.dropout(x, self.p, True)
        factor, shift = mask if mask is not None else factors(x, self.kind, self.p)
        return x * factor if shift is None else x * factor + shift

    def extra_repr(self) -> str:
        return f"{self.kind}, p={self.p}"


class DropoutMask(Dropout):
    """One mask for a tensor that some read rounded and others in float; None in evaluation."""

    def forward(self, x: Tensor, mask: object = None) -> Any:
        return factors(x, self.kind, self.p) if self.training else None


# --- out of the graph and back -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taken:
    """A dropout that was taken out of a graph.

    Args:
        source: the tensor that it drops from.
        readers: nodes that read what is left, with the places among their arguments.
    """

    source: GraphNode
    kind: str
    p: float
    layer: str
    stack: object
    readers: dict[GraphNode, list[int]] = field(default_factory=dict)


def take_out_dropouts_(graph: fx.Graph) -> list[Taken]:
    """Leave every dropout out, and say where they were, in their order. Those of weights do not come back."""
    fixed = constants(graph)
    taken: dict[GraphNode, Taken] = {}
    for node in [n for n in graph.nodes if DROPS in n.meta]:
        p, source = float(node.args[1]), node.args[0]
        if p > 0 and node.name not in fixed:
            readers = {user: _places(user, node) for user in node.users}
            taken[node] = Taken(source, node.meta[DROPS], p, layer_name(node), node.meta.get("nn_module_stack"), readers)
        node.replace_all_uses_with(source)
        graph.erase_node(node)
    for drop in reversed(taken.values()):  # one dropout behind another: both are read by what reads the last
        for reader in [reader for reader in drop.readers if reader in taken]:
            del drop.readers[reader]
            for other, places in taken[reader].readers.items():
                drop.readers[other] = sorted({*drop.readers.get(other, []), *places})
    return list(taken.values())


def _places(user: GraphNode, node: GraphNode) -> list[int]:
    return [i for i, leaf in enumerate(pytree.tree_leaves((user.args, user.kwargs))) if leaf is node]


def put_back_dropouts_(network: fx.GraphModule, taken: Sequence[Taken]) -> None:
    """Let readers read what is left of their tensors, whether that is rounded in between or not."""
    group = "dropout"
    while hasattr(network, group):  # a model has layers of that name
        group += "_"
    for i, drop in enumerate(taken):
        name, read = f"{group}.{i}", [(reader, place) for reader, places in drop.readers.items() for place in places]
        network.add_submodule(name, Dropout(drop.kind, drop.p))
        values = list(dict.fromkeys(_argument(reader, place) for reader, place in read))
        mask = _mask_(network, drop, name) if len(values) > 1 else ()
        for value in values:
            call = _call_(network, drop, name, (value, *mask), value if not mask else max(value, mask[0]))
            for reader, place in read:
                if _argument(reader, place) is value:
                    _set_argument_(reader, place, call)
    network.graph.lint()
    network.recompile()


def _mask_(network: fx.GraphModule, drop: Taken, name: str) -> tuple[GraphNode]:
    network.add_submodule(f"{name}_mask", DropoutMask(drop.kind, drop.p))
    return (_call_(network, drop, f"{name}_mask", (drop.source,), drop.source),)


def _call_(network: fx.GraphModule, drop: Taken, name: str, args: tuple[GraphNode, ...], behind: GraphNode) -> GraphNode:
    with network.graph.inserting_after(behind):
        call = network.graph.call_module(name, args)
    call.meta = {"val": args[0].meta.get("val"), "nn_module_stack": drop.stack}
    return call


def _argument(reader: GraphNode, place: int) -> GraphNode:
    return pytree.tree_leaves((reader.args, reader.kwargs))[place]


def _set_argument_(reader: GraphNode, place: int, value: GraphNode) -> None:
    leaves, structure = pytree.tree_flatten((reader.args, reader.kwargs))
    leaves[place] = value
    reader.args, reader.kwargs = pytree.tree_unflatten(leaves, structure)
