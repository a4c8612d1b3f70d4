"""Batches as people have them: what a data loader yields -> the inputs of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from qat.errors import CalibrationError
from qat.quantization.graph.capture import InputSpec


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
    for spec, tensor in zip(specs, found, strict=True):
        same = tensor.dim() == len(spec.shape) and tensor.dtype.is_floating_point == spec.dtype.is_floating_point
        if not same or any(n is not None and n != m for n, m in zip(spec.shape, tensor.shape, strict=True)):
            raise CalibrationError(f"the batch has {_shown(tensor)} where the model takes {_described(spec)}")
    return found


def _found(batch: object, specs: Sequence[InputSpec]) -> tuple[Tensor, ...] | None:
    if isinstance(batch, Tensor):
        return (batch,) if len(specs) == 1 else None
    if isinstance(batch, Mapping):
        values = [batch.get(spec.name) for spec in specs]
    elif isinstance(batch, Sequence) and not isinstance(batch, str) and batch:
        if not isinstance(batch[0], Tensor):
            return _found(batch[0], specs)
        values = list(batch[: len(specs)])
    else:
        return None
    tensors = tuple(value for value in values if isinstance(value, Tensor))
    return tensors if len(tensors) == len(specs) else None


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
