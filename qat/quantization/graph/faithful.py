"""Whether a graph computes what its model computes: for the example, for other sizes, and with its batch norms folded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qat.errors import CaptureError
from qat.quantization.graph.calls import Called
from qat.quantization.graph.forms import undressed
from qat.quantization.graph.nodes import chooses


class Sized(Protocol):
    """What is needed of an `InputSpec`."""

    @property
    def shape(self) -> tuple[int | None, ...]: ...


def other_sizes(inputs: Sequence[Tensor], specs: Sequence[Sized]) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """The example in other sizes, each with what it is in words: a batch of 1, and free lengths that are shorter by one.

    A model may ask for its sizes and go another way for some of them, which the graph does not know.
    """
    if any(spec.shape and spec.shape[0] is None for spec in specs):
        batched = [bool(spec.shape) and spec.shape[0] is None for spec in specs]
        yield "a batch of 1", tuple(x[:1] if is_free else x for x, is_free in zip(inputs, batched, strict=True))
    for dim in sorted({d for spec in specs for d, size in enumerate(spec.shape) if d > 0 and size is None}):
        free = [dim < len(spec.shape) and spec.shape[dim] is None for spec in specs]
        sizes = {x.shape[dim] for x, is_free in zip(inputs, free, strict=True) if is_free}
        if len(sizes) == 1 and (size := sizes.pop()) > 2:
            cut = tuple(x.narrow(dim, 0, size - 1) if is_free else x for x, is_free in zip(inputs, free, strict=True))
            yield f"a length of {size - 1} in dimension {dim}", cut


def check_same(model: Called, graph: nn.Module, inputs: Sequence[Tensor], *, where: str | None = None) -> None:
    """The graph must compute what the model computes.

    Args:
        where: what is special about these inputs. What the model itself cannot take is not asked of the graph.

    Raises:
        CaptureError: it does not.
    """
    try:
        expected = _tensors(model(*inputs))
    except Exception:  # a model's own code raises anything
        if where is None:
            raise
        return
    try:
        got = _tensors(graph(*inputs))
    except RuntimeError as error:
        raise CaptureError(
            f"the captured graph of {model.name} cannot take {where or 'the example inputs'}, the model can: {error}"
        ) from error
    if len(expected) != len(got):
        raise CaptureError(f"{model.name} returns {len(expected)} tensors for {where}, and {len(got)} for the example inputs")
    check_equal(model.name, expected, got, where=where)


def _tensors(output: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(undressed(output)) if isinstance(leaf, Tensor)]


def check_equal(
    name: str, expected: Sequence[Tensor], got: Sequence[Tensor], *, where: str | None = None, tolerance: float = 1e-3
) -> None:
    """Equal up to rounding.

    Args:
        tolerance: of a tensor's largest value.

    Raises:
        CaptureError: they are not.
    """
    for e, g in zip(expected, got, strict=True):
        size = float(e.float().abs().max()) if e.numel() else 0.0
        same = e.shape == g.shape
        error = float((e.float() - g.float()).abs().max()) if e.numel() and same else 0.0
        if same and (error <= tolerance * size + 1e-5 or not bool(torch.isfinite(e.float()).all())):
            continue
        if where is not None:
            raise CaptureError(
                f"{name} goes another way for {where} than for the example inputs, and a graph has one way only: it differs "
                f"by {error:.3g} (values up to {size:.3g}). Take what depends on the size out of forward, or give example "
                "inputs of the kind that it is to serve."
            )
        raise CaptureError(
            f"the captured graph of {name} differs from the model by {error:.3g} (values up to {size:.3g}). The model is not "
            "deterministic in eval mode, or changes itself in forward."
        )


def probe(module: fx.GraphModule, inputs: Sequence[Tensor]) -> list[Tensor]:
    """What the first choosing op reads, or where there is none the outputs: up to there rounding stays small."""
    choosing = [n for n in module.graph.nodes if chooses(n)]
    if not choosing:
        return _tensors(module(*inputs))
    values: list[Tensor] = []

    class Probe(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            if n is choosing[0]:
                values.append(self.fetch_args_kwargs_from_env(n)[0][0])
            return super().run_node(n)

    Probe(module).run(*inputs)
    return values
