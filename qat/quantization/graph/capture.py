"""Capture: `nn.Module` + example inputs -> one ATen graph, in eval mode, batch norm folded.

`torch.export` traces what FX symbolic tracing cannot; in eval mode there is one graph for training, evaluation and
deployment. The exported graph is then brought into one dialect (inline.py, normalize.py) and its batch norms are folded
(fold.py).
"""

from __future__ import annotations

import copy
import inspect
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qat.errors import CaptureError
from qat.quantization.graph.decompose import decomposed
from qat.quantization.graph.faithful import check_equal, check_same, other_sizes, probe
from qat.quantization.graph.fold import fold_batch_norms_
from qat.quantization.graph.inline import inline_regions_
from qat.quantization.graph.lengths import free_lengths
from qat.quantization.graph.linear import linearize_
from qat.quantization.graph.nodes import GraphNode
from qat.quantization.graph.normalize import needs_functionalization, normalize_
from qat.quantization.graph.subpixel import shuffle_transposed_


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """One tensor input of a captured graph. A dimension of None is free (batch, length)."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class Captured:
    """A captured model: the graph and what it takes.

    Args:
        module: a `GraphModule` of plain ATen ops; parameters keep the names they had in the model; `train()` and
            `eval()` make no difference to what it computes.
        inputs: one spec per positional input.
    """

    module: fx.GraphModule
    inputs: tuple[InputSpec, ...]


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A model as one graph in one dialect, its batch norms not folded yet: all that does not depend on its weights.

    Tracing takes seconds to minutes, and training changes nothing of it.

    Args:
        module: the graph with the weights at the time of tracing.
        example_inputs: for the numeric checks.
        inputs: see `Captured`.
    """

    module: fx.GraphModule
    example_inputs: tuple[Tensor, ...]
    inputs: tuple[InputSpec, ...]

    def captured(self, model: nn.Module) -> Captured:
        """The graph with the weights that `model` has now, batch norms folded.

        Args:
            model: that was traced; left alone.

        Raises:
            CaptureError: the graph does not compute what the model computes.
        """
        model, module, inputs = _plain(_unwrapped(model)), copy.deepcopy(self.module), self.example_inputs
        with torch.no_grad():
            _take_over_(module, model)
            check_same(model, module, inputs)
            for described, others in other_sizes(inputs, self.inputs):
                check_same(model, module, others, where=described)
            before = probe(module, inputs)
            fold_batch_norms_(module)
            shuffle_transposed_(module)
            check_equal(model, before, probe(module, inputs))
        return Captured(module=module, inputs=self.inputs)


def capture(
    model: nn.Module, example_inputs: Tensor | Sequence[Tensor], *, dynamic_dims: Sequence[Sequence[int]] | None = None
) -> Captured:
    """Trace `model` in eval mode into one graph with a free batch size and folded batch norms; see `trace`."""
    return trace(model, example_inputs, dynamic_dims=dynamic_dims).captured(model)


def trace(
    model: nn.Module, example_inputs: Tensor | Sequence[Tensor], *, dynamic_dims: Sequence[Sequence[int]] | None = None
) -> Traced:
    """Trace `model` in eval mode into one graph with a free batch size.

    Args:
        model: any module that takes tensors and returns a tensor or a tuple, list or dict of tensors; left alone.
        example_inputs: the positional inputs, or the only one. A batch of 1 is doubled: a traced size of 1 would be pinned.
        dynamic_dims: per input, the dimensions that stay free; the default is dimension 0 of every input.

    Raises:
        CaptureError: the model cannot be traced.
    """
    model = _unwrapped(model)
    inputs = tuple(_doubled(x) for x in _tensors(example_inputs))
    dims: list[tuple[int, ...]] = [(0,)] * len(inputs) if dynamic_dims is None else [tuple(d) for d in dynamic_dims]
    module = _export(_plain(model), inputs, dims)
    inline_regions_(module)
    normalize_(module)
    linearize_(module)
    placeholders = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    return Traced(
        module=module,
        example_inputs=inputs,
        inputs=tuple(
            InputSpec(name=name, dtype=x.dtype, shape=tuple(None if i in free else n for i, n in enumerate(x.shape)))
            for name, x, free in zip(placeholders, inputs, dims, strict=True)
        ),
    )


def _plain(model: nn.Module) -> nn.Module:
    """A copy in eval mode and one memory layout: trained weights may have another, and the graph must not depend on it.

    Hooks that compute a weight before every call (pruning masks, weight norm of old) leave it behind as an attribute with a
    history, which cannot be copied; the next call computes it anew.
    """
    attributes = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    computed = {id(value): value.detach().clone() for value in attributes if not value.is_leaf}
    return copy.deepcopy(model, computed).eval().to(memory_format=torch.contiguous_format)


def _take_over_(module: fx.GraphModule, model: nn.Module) -> None:
    """Give the graph's tensors the values of the model's of the same names."""
    theirs = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    for name, tensor in [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]:
        if name in theirs:
            tensor.copy_(theirs[name])


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model itself inside of torch.compile, DataParallel and DistributedDataParallel."""
    while isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
        model = inner
    return _unwrapped(model.module) if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) else model


def _tensors(example_inputs: object) -> tuple[Tensor, ...]:
    """The example inputs as a tuple; `CaptureError` for anything but tensors."""
    given = (example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs
    if not isinstance(given, list | tuple):
        raise CaptureError(
            f"example_inputs is a {type(given).__name__}; give a tuple of tensors, one per positional argument of forward"
        )
    if not given:
        raise CaptureError("capture needs at least one example input")
    for i, x in enumerate(given):
        if not isinstance(x, Tensor):
            raise CaptureError(
                f"example input {i} is a {type(x).__name__}; a captured model takes tensor inputs, one for each argument of "
                "forward. Wrap it in a small module that makes of tensors what forward wants (numbers, None, tuples)."
            )
    return tuple(given)


def _doubled(x: Tensor) -> Tensor:
    return torch.cat([x, x]) if x.dim() > 0 and x.shape[0] == 1 else x


def _export(model: nn.Module, inputs: tuple[Tensor, ...], dims: list[tuple[int, ...]]) -> fx.GraphModule:
    shapes = tuple(dict.fromkeys(free, torch.export.Dim.DYNAMIC) for free in dims)
    try:
        with warnings.catch_warnings(), torch.no_grad(), free_lengths(model):
            warnings.simplefilter("ignore")
            program = torch.export.export(model, inputs, dynamic_shapes=(shapes,) if _variadic(model) else shapes)
            if needs_functionalization(program.graph):
                program = program.run_decompositions({})
            exported = decomposed(program).module(check_guards=False)
    except Exception as error:
        raise CaptureError(_explain(model, error)) from error
    return _flatten(exported, program.call_spec.out_spec)


def _variadic(model: nn.Module) -> bool:
    """Whether `forward` takes its inputs as `*inputs`, which torch.export describes as one."""
    first = next(iter(inspect.signature(model.forward).parameters.values()), None)
    return first is not None and first.kind is inspect.Parameter.VAR_POSITIONAL


def _explain(model: nn.Module, error: Exception) -> str:
    """Say which line of the model stopped the tracer and what to do about it."""
    text = f"{error}\n{error.__cause__ or ''}"
    places = re.findall(r'File "([^"]+)", line (\d+), in (\w+)\s*\n\s*([^\n]*)', text)
    frames = [p for p in places if "torch/" not in p[0].replace("\\", "/")] or _frames(error)
    where = f" at {frames[-1][0]}:{frames[-1][1]}: `{frames[-1][3].strip()}`" if frames else ""
    reason = next((line for line in str(error).strip().splitlines() if line.strip()), type(error).__name__)
    return (
        f"{type(model).__name__} cannot be captured{where}.\n  {type(error).__name__}: {reason[:300]}\n"
        "Control flow must not depend on tensor values, and sizes must not be turned into Python numbers. Move that "
        "line out of forward, rewrite it with tensor ops (torch.where, masks), or capture the part of the model around it."
    )


def _frames(error: BaseException) -> list[tuple[str, str, str, str]]:
    import traceback

    summary = traceback.extract_tb(error.__traceback__)
    frames = [(f.filename, str(f.lineno), f.name, f.line or "") for f in summary]
    return [f for f in frames if "/torch/" not in f[0].replace("\\", "/") and "/qat/quantization/" not in f[0]]


def _flatten(exported: Any, out_spec: pytree.TreeSpec) -> fx.GraphModule:
    """A `GraphModule` with flat positional inputs whose output node holds the model's own structure."""
    graph = fx.Graph()
    copied: dict[GraphNode, GraphNode] = {}
    result = graph.graph_copy(exported.graph, copied)
    flat = [result] if isinstance(result, fx.Node) else list(result)  # type: ignore[arg-type]
    structure = pytree.tree_unflatten(flat, out_spec)
    if not _is_plain(structure):
        raise CaptureError(
            f"the model returns {out_spec.type.__name__}; a captured model returns a tensor, or a tuple, list or dict of "
            "tensors. Wrap it in a small module that returns the fields you need as a tuple."
        )
    graph.output(structure)
    return fx.GraphModule(exported, graph)


def _is_plain(structure: Any) -> bool:
    if type(structure) in (tuple, list):
        return all(_is_plain(item) for item in structure)
    if type(structure) is dict:
        return all(isinstance(k, str) and _is_plain(v) for k, v in structure.items())
    return isinstance(structure, fx.Node)
