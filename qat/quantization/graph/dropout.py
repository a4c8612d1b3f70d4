"""Dropout and stochastic depth: a prepared model drops in training where its model does.

They are traced as the identity that they are in evaluation, taken out before tensors are placed on grids, and put back
between a tensor (rounded already) and those that read it. Nothing of them is deployed.

Reference: Srivastava et al. 2014, JMLR 15 (dropout); Huang et al. 2016, arXiv:1603.09382 (stochastic depth).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils import _pytree as pytree

from qat.quantization.graph.nodes import GraphNode, constants, layer_name

aten = torch.ops.aten


def drop_rows(x: Tensor, p: float, training: bool) -> Tensor:
    """Stochastic depth: every sample of a batch, shape (N, ...), is dropped as a whole."""
    noise = F.dropout(torch.ones(x.shape[0], *([1] * (x.dim() - 1)), dtype=x.dtype, device=x.device), p, training)
    return x * noise


#: What drops: (x, p, training) -> x.
KINDS: Mapping[str, Callable[[Tensor, float, bool], Tensor]] = {
    "elements": F.dropout,
    "channels": torch.feature_dropout,
    "alpha": torch.alpha_dropout,
    "rows": drop_rows,
}

_OPS = {aten.dropout.default: "elements", aten.feature_dropout.default: "channels", aten.alpha_dropout.default: "alpha"}


class Dropout(nn.Module):
    """Drops in training. Called with two tensors, it does to the first what it did to the second: `mask` of it."""

    def __init__(self, kind: str, p: float) -> None:
        super().__init__()
        self.kind = kind
        self.p = p

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if not self.training:
            return x
        return x * mask if mask is not None else KINDS[self.kind](x, self.p, True)

    def extra_repr(self) -> str:
        return f"{self.kind}, p={self.p}"


class DropoutMask(Dropout):
    """One mask for a tensor that some read rounded and others in float; None in evaluation."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | None:  # type: ignore[override]
        return KINDS[self.kind](torch.ones_like(x), self.p, True) if self.training else None


# --- while tracing -----------------------------------------------------------------------------------------------------


class StochasticDepth(nn.Module):
    """Stands for a model's own while it is traced: theirs leave no trace in evaluation."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, training=False)


def mark_depths_(model: nn.Module) -> None:
    """Put a `StochasticDepth` in the place of every module that is one by its name: timm's, torchvision's, Hugging Face's."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            p = _depth(child)
            if p:
                setattr(module, name, StochasticDepth(p))


def _depth(module: nn.Module) -> float:
    """The share of samples that a module drops."""
    if not type(module).__name__.endswith(("DropPath", "StochasticDepth")) or getattr(module, "mode", "row") != "row":
        return 0.0
    return float(getattr(module, "drop_prob", None) or getattr(module, "p", None) or 0.0)


def droppers(model: nn.Module) -> dict[str, float]:
    """Every module that drops in training, with its share, by its dotted name."""
    found = {}
    for name, module in model.named_modules():
        p = float(module.p) if isinstance(module, _DropoutNd) else _depth(module)
        if isinstance(module, nn.MultiheadAttention):
            p = float(module.dropout)
        if p:
            found[name] = p
    return found


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
    for node in [n for n in graph.nodes if n.target in _OPS]:
        p, stack = float(node.args[1]), node.meta.get("nn_module_stack")
        source = node.args[0]
        if p > 0 and node.name not in fixed:
            kind = "rows" if _is_depth(stack) else _OPS[node.target]
            readers = {user: _places(user, node) for user in node.users}
            taken[node] = Taken(source, kind, p, layer_name(node), stack, readers)
        node.replace_all_uses_with(source)
        graph.erase_node(node)
    for drop in taken.values():  # one dropout behind another: both are read by what reads the second
        for reader in [reader for reader in drop.readers if reader in taken]:
            drop.readers.update(taken[reader].readers)
            del drop.readers[reader]
    return list(taken.values())


def _is_depth(stack: object) -> bool:
    return isinstance(stack, Mapping) and bool(stack) and __name__ in str(list(stack.values())[-1][1])


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
