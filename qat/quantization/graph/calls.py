"""Calls: what a model is called with, in any structure -> tensors in a row, as a graph takes them.

Models take nested tuples, dicts, keyword arguments, numbers and None.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qat.errors import CaptureError, InputError, near

#: What a graph takes over as it is.
Plain = (bool, int, float, complex, str, type(None))


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """One tensor input of a captured graph. A dimension of None is free (batch, length)."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Slot:
    """Stands for the tensor of this number in the arguments of a model."""

    number: int


@dataclass(frozen=True)
class Call:
    """The arguments of a model; its tensors are numbered in the order in which a graph takes them."""

    args: tuple[object, ...]
    kwargs: Mapping[str, object]

    def arguments(self, values: Sequence[object]) -> tuple[tuple[object, ...], dict[str, object]]:
        """Positional and keyword arguments with these values (tensors, or whatever is said of each) in their places."""

        def fill(leaf: object) -> object:
            return values[leaf.number] if isinstance(leaf, Slot) else leaf

        return _mapped(self.args, fill), {name: _mapped(value, fill) for name, value in self.kwargs.items()}


@dataclass(frozen=True)
class Called:
    """A model as a function of tensors in a row."""

    model: nn.Module
    call: Call

    def __call__(self, *tensors: Tensor) -> object:
        args, kwargs = self.call.arguments(tensors)
        return self.model(*args, **kwargs)

    @property
    def name(self) -> str:
        return type(self.model).__name__


def parsed(example_inputs: object) -> tuple[Call, tuple[Tensor, ...]]:
    """How a model is called, and with which tensors.

    Args:
        example_inputs: the only input, a tuple or list of positional arguments, or a mapping of keyword arguments; tensors may
            be nested in tuples, lists and dicts. Numbers, strings and None become part of the graph.

    Raises:
        CaptureError: there is no tensor in it, or an object that no graph can take.
    """
    args: tuple[object, ...] = ()
    kwargs: dict[str, object] = {}
    if isinstance(example_inputs, Mapping):
        kwargs = {str(name): value for name, value in example_inputs.items()}
    elif isinstance(example_inputs, list | tuple):
        args = tuple(example_inputs)
    elif isinstance(example_inputs, Tensor):
        args = (example_inputs,)
    else:
        raise CaptureError(
            f"example_inputs is a {type(example_inputs).__name__}; give a tuple of positional arguments or a dict of keyword "
            "arguments of forward, made of tensors"
        )
    tensors: list[Tensor] = []

    def slot(leaf: object) -> object:
        if isinstance(leaf, Tensor):
            tensors.append(leaf)
            return Slot(len(tensors) - 1)
        if isinstance(leaf, Plain):
            return leaf
        raise CaptureError(
            f"an example input is a {type(leaf).__name__}; a captured model takes tensors, also in tuples, lists and dicts, "
            "beside numbers, strings and None. Wrap the model in a small module that makes of tensors what forward wants."
        )

    args = _mapped(args, slot)
    kwargs = {name: _mapped(value, slot) for name, value in kwargs.items()}
    if not tensors:
        raise CaptureError("capture needs at least one tensor among the example inputs")
    return Call(args, kwargs), tuple(tensors)


def _mapped(value: object, function: Callable[[object], object]) -> Any:
    """`value` with `function` applied to each leaf; dicts come in the order of their keys, however they are written."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, function) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(_mapped(item, function) for item in value)
    if isinstance(value, Mapping):
        return {key: _mapped(value[key], function) for key in sorted(value, key=str)}
    return function(value)


# --- calling a graph as its model was called ---------------------------------------------------------------------------


def flat_inputs(args: Sequence[object], kwargs: Mapping[str, object], specs: Sequence[InputSpec]) -> tuple[Tensor, ...]:
    """The tensors of a call in the order of the graph's inputs, in its dtypes.

    Args:
        args: positional arguments as the model takes them.
        kwargs: keyword arguments by the names of the model's.

    Raises:
        InputError: too many or too few, an unknown name, a number (it is part of the graph), a dtype or size that does not fit.
    """
    if kwargs or len(args) != len(specs) or not all(isinstance(arg, Tensor) for arg in args):
        args = _in_order(args, kwargs, specs)
    return tuple(fitted(x, spec) for x, spec in zip(args, specs, strict=True))  # type: ignore[arg-type]


def _in_order(args: Sequence[object], kwargs: Mapping[str, object], specs: Sequence[InputSpec]) -> list[object]:
    given = dict(_checked(pair) for key, value in kwargs.items() for pair in named_leaves(key, value) if pair[1] is not None)
    given = {_traced_name(name, specs): value for name, value in given.items()}
    positional = [_checked(pair)[1] for arg in args for pair in named_leaves("", arg) if pair[1] is not None]
    free = [spec.name for spec in specs if spec.name not in given]
    if len(positional) != len(free):
        names = ", ".join(spec.name for spec in specs)
        raise InputError(f"the model takes {len(specs)} inputs ({names}), got {len(positional) + len(given)}")
    given.update(zip(free, positional, strict=True))
    return [given[spec.name] for spec in specs]


def _traced_name(name: str, specs: Sequence[InputSpec]) -> str:
    """What an input is called in the graph, where `input` and other names of Python's own have a number behind them."""
    names = {spec.name for spec in specs}
    plain = re.sub(r"\W", "_", name)
    for candidate in (name, plain, f"{plain}_1"):
        if candidate in names:
            return candidate
    raise InputError(f"the model has no input {name!r}.{near(name, names)}")


def named_leaves(name: str, value: object) -> Iterator[tuple[str, object]]:
    """What is in an argument: `pair_0` and `pair_1` for the two of a tuple `pair`, `batch_ids` for one of a dict `batch`."""
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from named_leaves(f"{name}_{key}".removeprefix("_"), value[key])
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from named_leaves(f"{name}_{i}".removeprefix("_"), item)
    else:
        yield name, value


def _checked(pair: tuple[str, object]) -> tuple[str, Tensor]:
    """`InputError` for a number or an object; the graph has taken over those of the example."""
    name, value = pair
    if isinstance(value, Tensor):
        return name, value
    raise InputError(
        f"an input is a {type(value).__name__}; the model takes tensors. Numbers and strings of the example inputs are part of "
        "the graph: leave them out, or prepare the model once for each."
    )


def fitted(x: Tensor, spec: InputSpec) -> Tensor:
    """The tensor in the dtype of the graph's input: any float for a float, any narrower integer for an integer.

    Raises:
        InputError: another kind of number, or a size that was not declared free.
    """
    if x.dim() != len(spec.shape) or any(n is not None and n != m for n, m in zip(spec.shape, x.shape, strict=True)):
        raise InputError(_misfit(x, spec))
    if x.dtype == spec.dtype:
        return x
    floats = x.dtype.is_floating_point and spec.dtype.is_floating_point
    whole = not x.dtype.is_floating_point and not x.dtype.is_complex and not spec.dtype.is_floating_point
    if floats or (whole and torch.promote_types(x.dtype, spec.dtype) == spec.dtype):
        return x.to(spec.dtype)
    raise InputError(_misfit(x, spec))


def _misfit(x: Tensor, spec: InputSpec) -> str:
    """What is wrong with an input, and which argument of prepare frees a size."""
    shape = ", ".join("any" if n is None else str(n) for n in spec.shape)
    text = f"input {spec.name!r} must be a {spec.dtype} tensor of shape ({shape}), got {x.dtype} of shape {tuple(x.shape)}"
    if x.dim() == len(spec.shape):
        fixed = [i for i, n in enumerate(spec.shape) if n is not None and n != x.shape[i]]
        if fixed:
            free = tuple(sorted({*fixed, *(i for i, n in enumerate(spec.shape) if n is None)}))
            text += (
                f". Dimension {fixed[0]} was captured with the size {spec.shape[fixed[0]]} of the example; "
                f"prepare(..., dynamic_dims=[{free}, ...]), one entry per input, keeps it free"
            )
    return text


# --- batches of the example --------------------------------------------------------------------------------------------


def batches_of_two(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A batch of 1 doubled: a traced size of 1 would be pinned. A 1 beside a larger batch broadcasts, and stays."""
    sizes = [x.shape[0] for x in inputs if x.dim() > 0]
    if not sizes or sizes[0] != 1:
        return inputs
    return tuple(torch.cat([x, x]) if x.dim() > 0 and x.shape[0] == 1 else x for x in inputs)


def free_batch(inputs: tuple[Tensor, ...]) -> list[tuple[int, ...]]:
    """Dimension 0 of every tensor that has more than one entry there."""
    return [(0,) if x.dim() > 0 and x.shape[0] != 1 else () for x in inputs]
