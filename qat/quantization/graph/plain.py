"""The model itself, as it is traced: unwrapped, whole, in eval mode, float32 and one memory layout."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from qat.errors import CaptureError


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy to trace; `model` is left alone.

    Hooks that compute a weight before every call (pruning masks, weight norm of old) leave it behind as an attribute with a
    history, which cannot be copied; the next call computes it anew.

    Raises:
        CaptureError: it is no module, in pieces on several ranks, or holds what is no number or cannot be copied.
    """
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise CaptureError(
            f"the model is a {type(model).__name__}; give an nn.Module, in Python: one that holds what it computes with"
        )
    model = _unwrapped(model)
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            raise CaptureError(
                f"weight {name!r} has no shape yet: run the model once, so that its lazy layers find their sizes"
            )
        if parameter.is_meta:
            raise CaptureError(f"weight {name!r} is on the meta device and holds no numbers; load the model's weights first")
        if not bool(torch.isfinite(parameter.detach()).all()):
            raise CaptureError(f"weight {name!r} holds NaN or infinity")
    attributes = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    computed = {id(value): value.detach().clone() for value in attributes if not value.is_leaf}
    try:
        copied = copy.deepcopy(model, computed).eval().to(memory_format=torch.contiguous_format)
    except (TypeError, RuntimeError) as error:
        raise CaptureError(f"{type(model).__name__} cannot be copied, and is left alone: {error}") from error
    _without_cache_(copied)
    return copied.float() if any(_is_other_float(p) for p in copied.parameters()) else copied


def _without_cache_(model: nn.Module) -> None:
    """Decoders of transformers return what they remember for the next token beside what they are asked for."""
    for module in model.modules():
        if getattr(config := getattr(module, "config", None), "use_cache", False):
            config.use_cache = False  # type: ignore[union-attr]


def _is_other_float(tensor: Tensor) -> bool:
    """Half precision and double; ranges and rounding are in float32."""
    return tensor.dtype.is_floating_point and tensor.dtype is not torch.float32


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model itself inside of torch.compile, DataParallel and DistributedDataParallel."""
    while isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
        model = inner
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _unwrapped(model.module)
    if any(_is_sharded(module) for module in model.modules()):
        raise CaptureError(
            f"{type(model).__name__} is sharded by FSDP: a rank holds a piece of each weight, and a graph needs whole ones. "
            "Prepare the model before it is wrapped, and train the prepared model with DistributedDataParallel: a prepared "
            "model fits wherever the float model fits."
        )
    return model


def _is_sharded(module: nn.Module) -> bool:
    """Whether it is one of `FullyShardedDataParallel`, or of the newer `fully_shard`, which swaps the class."""
    return any(kind.__name__ in ("FullyShardedDataParallel", "FSDPModule") for kind in type(module).__mro__)
