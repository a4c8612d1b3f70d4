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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qat.errors import CaptureError
from qat.quantization.graph.calls import Call, Called, InputSpec, Plain, batches_of_two, free_batch, parsed
from qat.quantization.graph.decompose import decomposed
from qat.quantization.graph.faithful import check_equal, check_same, other_sizes, probe
from qat.quantization.graph.fold import fold_batch_norms_
from qat.quantization.graph.forms import Form, form_of, known_outputs, undressed
from qat.quantization.graph.inline import inline_regions_
from qat.quantization.graph.lengths import free_lengths
from qat.quantization.graph.linear import linearize_
from qat.quantization.graph.normalize import needs_functionalization, normalize_
from qat.quantization.graph.plain import plain_copy
from qat.quantization.graph.subpixel import shuffle_transposed_
from qat.quantization.graph.traced_dropout import TracedDropouts, mark_depths_, say_what_is_left

#: What a model is called with, as users write it: see `trace`.
ExampleInputs: TypeAlias = Tensor | Sequence[object] | Mapping[str, object]

DynamicDims: TypeAlias = Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Captured:
    """A captured model: the graph and what it takes.

    Args:
        module: a `GraphModule` of plain ATen ops; parameters keep the names they had in the model; `train()` and
            `eval()` make no difference to what it computes: dropouts stand in it as they are in evaluation.
        inputs: one spec per tensor that it takes.
        form: the types in which the model returns what the graph returns in plain ones.
    """

    module: fx.GraphModule
    inputs: tuple[InputSpec, ...]
    form: Form


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A model as one graph in one dialect, its batch norms not folded yet: all that does not depend on its weights.

    Tracing takes seconds to minutes, and training changes nothing of it.

    Args:
        module: the graph with the weights at the time of tracing.
        call: how the model takes the tensors.
        example_inputs: for the numeric checks.
        inputs, form: see `Captured`.
    """

    module: fx.GraphModule
    call: Call
    example_inputs: tuple[Tensor, ...]
    inputs: tuple[InputSpec, ...]
    form: Form

    def captured(self, model: nn.Module) -> Captured:
        """The graph with the weights that `model` has now, batch norms folded.

        Args:
            model: that was traced; left alone.

        Raises:
            CaptureError: the graph does not compute what the model computes.
        """
        called, module, inputs = Called(plain_copy(model), self.call), copy.deepcopy(self.module), self.example_inputs
        with torch.no_grad():
            _take_over_(module, called.model)
            check_same(called, module, inputs)
            for described, others in other_sizes(inputs, self.inputs):
                check_same(called, module, others, where=described)
            before = probe(module, inputs)
            fold_batch_norms_(module)
            shuffle_transposed_(module)
            check_equal(called.name, before, probe(module, inputs), tolerance=1e-2)  # deep networks carry roundings far
        return Captured(module=module, inputs=self.inputs, form=self.form)


def capture(model: nn.Module, example_inputs: ExampleInputs, *, dynamic_dims: DynamicDims | None = None) -> Captured:
    """Trace `model` in eval mode into one graph with a free batch size and folded batch norms; see `trace`."""
    return trace(model, example_inputs, dynamic_dims=dynamic_dims).captured(model)


def trace(model: nn.Module, example_inputs: ExampleInputs, *, dynamic_dims: DynamicDims | None = None) -> Traced:
    """Trace `model` in eval mode and float32 into one graph with a free batch size.

    Args:
        model: any module that takes tensors and returns a tensor, or tensors in tuples, lists, dicts, named tuples or
            dataclasses; left alone.
        example_inputs: the only input, a tuple of positional arguments or a dict of keyword arguments; tensors may be nested,
            numbers and None become part of the graph. A batch of 1 is doubled: a traced size of 1 would be pinned.
        dynamic_dims: per tensor, the dimensions that stay free; the default is dimension 0 of every one that has a batch.

    Raises:
        CaptureError: the model cannot be traced.
    """
    call, tensors = parsed(example_inputs)
    inputs = batches_of_two(tuple(x.to(torch.float32) if x.dtype.is_floating_point else x for x in tensors))
    dims = free_batch(inputs) if dynamic_dims is None else [tuple(d) for d in dynamic_dims]
    if len(dims) != len(inputs):
        raise CaptureError(f"dynamic_dims has {len(dims)} entries for {len(inputs)} input tensors; give one each, () for none")
    copied = plain_copy(model)
    mark_depths_(copied)
    module, form = _export(copied, call, inputs, dims)
    inline_regions_(module)
    normalize_(module)
    linearize_(module)
    say_what_is_left(model, module.graph)
    placeholders = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    return Traced(
        module=module,
        call=call,
        example_inputs=inputs,
        inputs=tuple(
            InputSpec(name=name, dtype=x.dtype, shape=tuple(None if i in free else n for i, n in enumerate(x.shape)))
            for name, x, free in zip(placeholders, inputs, dims, strict=True)
        ),
        form=form,
    )


def _take_over_(module: fx.GraphModule, model: nn.Module) -> None:
    """Give the graph's tensors the values of the model's of the same names."""
    theirs = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    for name, tensor in [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]:
        if name in theirs:
            tensor.copy_(theirs[name])


def _export(
    model: nn.Module, call: Call, inputs: tuple[Tensor, ...], dims: list[tuple[int, ...]]
) -> tuple[fx.GraphModule, Form]:
    args, kwargs = call.arguments(inputs)
    shapes = _dynamic_shapes(model, *call.arguments([dict.fromkeys(free, torch.export.Dim.DYNAMIC) for free in dims]))
    try:
        with warnings.catch_warnings(action="ignore"), known_outputs(model, args, kwargs), torch.no_grad(), free_lengths(model):
            with TracedDropouts():
                program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes)
            if needs_functionalization(program.graph):
                program = program.run_decompositions({})
            return _flatten(decomposed(program).module(check_guards=False), program.call_spec.out_spec)
    except CaptureError:
        raise
    except Exception as error:
        raise CaptureError(_explain(model, error)) from error


def _dynamic_shapes(model: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> dict[str, Any]:
    """What is free of each argument of `forward`, in the structure of the arguments; numbers have nothing to be free."""
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    except TypeError as error:
        raise CaptureError(f"{type(model).__name__}.forward cannot be called with these example inputs: {error}") from None

    def free(value: Any) -> object:
        if isinstance(value, dict) and all(size is torch.export.Dim.DYNAMIC for size in value.values()):
            return value
        if isinstance(value, dict):
            return {key: free(item) for key, item in value.items()}
        if hasattr(value, "_fields"):
            return type(value)(*map(free, value))
        return type(value)(map(free, value)) if isinstance(value, list | tuple) else None

    return {name: free(value) for name, value in bound.items()}


def _explain(model: nn.Module, error: Exception) -> str:
    """Say which line of the model stopped the tracer and what to do about it."""
    text = f"{error}\n{error.__cause__ or ''}"
    places = re.findall(r'File "([^"]+)", line (\d+), in (\w+)\s*\n\s*([^\n]*)', text)
    frames = [p for p in places if "torch/" not in p[0].replace("\\", "/")] or _frames(error)
    where = f" at {frames[-1][0]}:{frames[-1][1]}: `{frames[-1][3].strip()}`" if frames else ""
    reason = next((line for line in str(error).strip().splitlines() if line.strip()), type(error).__name__)
    if pinned := re.search(r"Constraints violated \(L\['(\w+)'\].*size\(\)\[(\d+)\]", reason):
        reason = (
            f"forward fixes dimension {pinned[2]} of input {pinned[1]!r} at the size of the example, and it has to stay free"
        )
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


def _flatten(exported: Any, out_spec: pytree.TreeSpec) -> tuple[fx.GraphModule, Form]:
    """A `GraphModule` that takes tensors in a row, its output node in plain structures, and the form of the model's own."""
    graph = fx.Graph()
    result = graph.graph_copy(exported.graph, {})
    for node in list(graph.nodes):
        if node.op == "placeholder" and not isinstance(node.meta.get("val"), Tensor):  # a number or None of the example
            node.replace_all_uses_with(node.meta.get("val"))
            graph.erase_node(node)
    flat = [result] if isinstance(result, fx.Node) else list(result)  # type: ignore[arg-type]
    structure = pytree.tree_unflatten(flat, out_spec)
    form, structure = form_of(structure), undressed(structure)
    for leaf in pytree.tree_leaves(structure):
        if not isinstance(leaf, (fx.Node, *Plain)):
            raise CaptureError(
                f"the model returns a {type(leaf).__name__}; a captured model returns tensors in tuples, lists, dicts, named "
                "tuples or dataclasses, beside numbers and None. Wrap it in a small module that returns the fields you need."
            )
    graph.output(structure)
    return fx.GraphModule(exported, graph), form
