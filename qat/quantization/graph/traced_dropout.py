"""How dropouts are traced: in evaluation they are the identity, and what is the identity leaves no trace.

While a model is traced its dropouts are calls of an op of their own, `qat::drop`. PyTorch's return their argument itself in
evaluation, so that whatever reads that tensor later would read it behind the dropout; timm's and torchvision's stochastic depth
return before they call anything.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from qat.quantization.graph.nodes import DROPS, constants, layer_name

_LOG = logging.getLogger(__name__)

_LIBRARY: Any = torch.library.Library("qat", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("drop(Tensor x, float p, str kind) -> Tensor")
_LIBRARY.impl("drop", lambda x, p, kind: x.clone(), "CompositeExplicitAutograd")


class TracedDropouts(TorchFunctionMode):
    """Calls of dropout functions become calls of the op; those that drop in evaluation too stay what they are."""

    def __torch_function__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        kind = _FUNCTIONS.get(func)
        if kind is None:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("input", "p", "training"), args, strict=False), **(kwargs or {}))
        if given.get("training", given.get("train", True)):
            return func(*args, **(kwargs or {}))
        return torch.ops.qat.drop(given["input"], float(given.get("p", 0.5)), kind)


_FUNCTIONS: Mapping[object, str] = {
    F.dropout: "elements",
    torch.dropout: "elements",
    **dict.fromkeys((F.dropout1d, F.dropout2d, F.dropout3d, torch.feature_dropout), "channels"),
    **dict.fromkeys((F.alpha_dropout, torch.alpha_dropout), "alpha"),
}


class StochasticDepth(nn.Module):
    """Stands for a model's own while it is traced: theirs leave no trace in evaluation."""

    def __init__(self, p: float, *, scaled: bool) -> None:
        super().__init__()
        self.p = p
        self.kind = "rows" if scaled else "rows, unscaled"

    def forward(self, x: Tensor) -> Tensor:
        dropped: Tensor = torch.ops.qat.drop(x, self.p, self.kind)
        return dropped


def mark_depths_(model: nn.Module) -> None:
    """Put a `StochasticDepth` in the place of every module that is one: timm's, torchvision's, Hugging Face's."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if _is_depth(child) and (p := _share(child)):
                setattr(module, name, StochasticDepth(p, scaled=bool(getattr(child, "scale_by_keep", True))))


def _is_depth(module: nn.Module) -> bool:
    """By its name, and because it takes one tensor and holds nothing: a class of that name may be anything."""
    named = type(module).__name__.endswith(("DropPath", "StochasticDepth"))
    if not named or getattr(module, "mode", "row") != "row" or any(True for _ in module.children()):
        return False
    needed = [p for p in inspect.signature(module.forward).parameters.values() if p.default is p.empty]
    return len(needed) == 1


def _share(module: nn.Module) -> float:
    """The share that a module drops, by what such modules call it."""
    for name in ("drop_prob", "p", "dropout", "dropout_p", "attention_dropout", "drop_block_prob"):
        value = getattr(module, name, None)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
            return float(value)
    return 0.0


def say_what_is_left(model: nn.Module, graph: fx.Graph) -> None:
    """Log what drops in the model's training and left no trace."""
    fixed = constants(graph)
    traced = {layer_name(node) for node in graph.nodes if DROPS in node.meta and node.name not in fixed}
    left = [f"{name} (p={p:g})" for name, p in droppers(model).items() if name not in traced]
    if left:
        _LOG.warning(
            "a prepared %s trains without these dropouts of the model: %s%s. They work inside of attention or a recurrent "
            "layer, on weights, or on whole regions, and leave no trace that training could follow",
            type(model).__name__,
            ", ".join(left[:3]),
            f" and {len(left) - 3} more" if len(left) > 3 else "",
        )


def droppers(model: nn.Module) -> dict[str, float]:
    """Every module that drops in training, with its share, by its dotted name: dropouts, and what has a share of its own
    (attention, recurrent layers, `DropBlock2d`)."""
    kinds = ("Drop", "Attention", "StochasticDepth", "LSTM", "GRU", "RNN")
    found = {}
    for name, module in model.named_modules():
        if any(kind in type(module).__name__ for kind in kinds) and (p := _share(module)):
            found[name] = p
    return found
