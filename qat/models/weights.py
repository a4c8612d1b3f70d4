"""Load a checkpoint file strictly; only a classifier with another number of classes may stay fresh."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from timm.models import load_state_dict
from torch import Tensor, nn

from qat.errors import ConfigError

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")

#: How `timm.models.save_for_hf` and the Hugging Face hub name the weights inside a model folder.
FOLDER_WEIGHTS = ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin", "model.pth")

_log = logging.getLogger(__name__)


def weights_file(path: Path) -> Path:
    """The weights file that `path` (a file, or a model folder) means.

    Raises:
        ConfigError: nothing there, or a file of another kind.
    """
    if path.is_dir():
        for name in FOLDER_WEIGHTS:
            if (path / name).is_file():
                return path / name
        raise ConfigError(f"model.path: the folder {path} holds no weights. Looked for {', '.join(FOLDER_WEIGHTS)}.")
    if not path.is_file():
        raise ConfigError(f"model.path: there is no file or folder {path}.")
    if path.suffix not in WEIGHT_SUFFIXES:
        raise ConfigError(f"model.path: {path} is not a weights file. Allowed: {', '.join(WEIGHT_SUFFIXES)}.")
    return path


def load_weights_(model: nn.Module, file: Path, *, classifiers: Iterable[str]) -> None:
    """Copy the tensors of `file` into `model`, all of them, in place.

    Args:
        model: a timm model.
        file: as `weights_file` returns it; read without running code (safetensors, or torch.load with weights_only).
        classifiers: dotted names of the final layers. One that the file has for another number of classes keeps
            its fresh values.

    Raises:
        ConfigError: an unreadable file, or missing, unexpected or differently shaped tensors; all are named.
    """
    try:
        state: dict[str, Tensor] = load_state_dict(str(file), weights_only=True)
    except Exception as error:  # safetensors, pickle, zip and torch raise unrelated types for a damaged file
        raise ConfigError(f"model.path: {file} cannot be read as weights: {error}") from error
    # Each timm family may define this; it fits position embeddings to another image size.
    adapt = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if adapt is not None:
        state = adapt(state, model)
    own = model.state_dict()
    fresh = {key for name in classifiers for key in _resized(name, state, own)}
    if fresh:
        _log.info("%s has another number of classes: %s start fresh", file.name, ", ".join(sorted(fresh)))
    wrong = [
        f"{key} is {tuple(state[key].shape)} in the file and {tuple(own[key].shape)} in the model"
        for key in own
        if key in state and key not in fresh and state[key].shape != own[key].shape
    ]
    missing, unexpected = own.keys() - state.keys(), state.keys() - own.keys()
    if missing or unexpected or wrong:
        raise ConfigError(
            f"model.path: {file} does not fit the model. Missing: {_some(missing)}. Unexpected: {_some(unexpected)}. "
            f"Other shape: {_some(wrong)}. Check model.name, model.in_channels and model.options."
        )
    model.load_state_dict({key: own[key] if key in fresh else state[key] for key in own})


def _resized(name: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """The tensors of layer `name` that differ from the file in the number of classes (axis 0) and in nothing else."""
    keys = [key for key in (f"{name}.weight", f"{name}.bias") if key in state and key in own]
    return [key for key in keys if state[key].shape[0] != own[key].shape[0] and state[key].shape[1:] == own[key].shape[1:]]


def _some(names: Iterable[str], limit: int = 5) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return (", ".join(listed[:limit]) or "none") + more
