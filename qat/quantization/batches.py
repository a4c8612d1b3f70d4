"""Batches as people have them: what a data loader yields -> the inputs of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from qat.errors import CalibrationError, InputError
from qat.quantization.graph.calls import InputSpec, fitted, named_leaves


def inputs_of(batch: object, specs: Sequence[InputSpec]) -> tuple[Tensor, ...]:
    """The inputs of a model out of one batch.

    Args:
        batch: a tensor; a list or tuple that begins with the inputs, whatever follows (labels), or whose first entry holds them
            in one of these forms; or a mapping that has them by name, whatever else it has.
        specs: of the inputs; their names are those of the arguments of the model's `forward`.

    Raises:
        CalibrationError: the inputs are not in it, or differ in dimensions or kind of number.
    """
    found = _found(batch, specs)
    if found is None:
        wanted = ", ".join(_described(spec) for spec in specs)
        raise CalibrationError(
            f"the batch is {_shown(batch)}, and the model takes {wanted}. Give a tensor, a list or tuple that begins with the "
            "inputs, or a dict that has them by name."
        )
    try:
        return tuple(fitted(tensor, spec) for tensor, spec in zip(found, specs, strict=True))
    except InputError as error:
        raise CalibrationError(f"a batch does not fit: {error}") from None


def _found(batch: object, specs: Sequence[InputSpec]) -> list[Tensor] | None:
    tensors = {name: leaf for name, leaf in named_leaves("", batch) if isinstance(leaf, Tensor)}
    if isinstance(batch, Mapping):
        return _by_name(tensors, [spec.name for spec in specs])
    if isinstance(batch, list | tuple) and batch and not isinstance(batch[0], Tensor):
        found = _found(batch[0], specs)
        if found is not None:
            return found
    return list(tensors.values())[: len(specs)] if len(tensors) >= len(specs) else None


def _by_name(tensors: Mapping[str, Tensor], names: Sequence[str]) -> list[Tensor] | None:
    """Inputs by their names, or without the name of the one argument that all of them are in."""
    tensors = {**{f"{name}_1": tensor for name, tensor in tensors.items()}, **tensors}  # names of Python's own: `input_1`
    parts = names[0].split("_")
    for prefix in ("_".join([*parts[:i], ""]) for i in range(len(parts))):
        if all(name.startswith(prefix) and name.removeprefix(prefix) in tensors for name in names):
            return [tensors[name.removeprefix(prefix)] for name in names]
    return None


def _described(spec: InputSpec) -> str:
    shape = ", ".join("any" if n is None else str(n) for n in spec.shape)
    return f"{spec.name}: {str(spec.dtype).removeprefix('torch.')} ({shape})"


def _shown(batch: object) -> str:
    if isinstance(batch, Tensor):
        return f"a {str(batch.dtype).removeprefix('torch.')} tensor of shape {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return "a mapping with " + (", ".join(map(repr, batch)) or "nothing")
    if isinstance(batch, list | tuple):
        return f"a {type(batch).__name__} of " + (", ".join(_shown(entry) for entry in batch[:4]) or "nothing")
    return f"a {type(batch).__name__}"
