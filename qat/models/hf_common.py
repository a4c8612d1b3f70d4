"""What all Hugging Face models share: configurations of fresh networks, and loading that is strict and runs no foreign code.

Weights are read from safetensors, or by torch.load with weights_only; code that a repository carries is never run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils.logging import disable_progress_bar

from qat.errors import ConfigError, near

_log = logging.getLogger(__name__)


def model_name(name: str | None, *, pretrained: bool, path: str | None, example: str) -> str:
    """What reports call the model: its name, or that of its folder.

    Raises:
        ConfigError: two sources of weights, or neither name nor folder.
    """
    if pretrained and path is not None:
        raise ConfigError("model.pretrained and model.path are two sources of weights: give one of them.")
    if name is None and path is None:
        raise ConfigError(
            f"give model.path=FOLDER, or model.name: a model type such as {example}, or with model.pretrained=true a name"
        )
    return name or Path(str(path)).resolve().name


def fresh_config(model_type: str, settings: Mapping[str, object]) -> PretrainedConfig:
    """The configuration of a fresh network.

    Raises:
        ConfigError: transformers has no such type, or it has no such option.
    """
    if model_type not in CONFIG_MAPPING:
        raise ConfigError(
            f"{model_type!r} is no model type of transformers.{near(model_type, CONFIG_MAPPING)} For weights give "
            "model.path=FOLDER, or model.pretrained=true with a name on the hub."
        )
    known = {option for option in vars(AutoConfig.for_model(model_type)) if not option.startswith("_")}
    for option in settings:
        if option not in known and option not in ("id2label", "label2id"):
            raise ConfigError(f"{model_type} has no option {option!r}.{near(option, known)}")
    config: PretrainedConfig = AutoConfig.for_model(model_type, **settings)
    return config


def fresh_model(head: Any, known: Mapping[Any, object], config: PretrainedConfig, *, what: str) -> nn.Module:
    """A fresh network with a head.

    Args:
        head: an `AutoModelFor...`.
        known: transformers' table of the configurations that have such a head.
        what: what the table holds, in words.

    Raises:
        ConfigError: the type has no such head, or options that do not fit each other.
    """
    if type(config) not in known:
        types = [other.model_type for other in known]
        raise ConfigError(f"{config.model_type!r} is no {what} of transformers.{near(config.model_type, types)}")
    try:
        model: nn.Module = head.from_config(config)
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        reason = str(error)[:400]
        raise ConfigError(f"transformers cannot build {config.model_type!r} with these model.options: {reason}") from error
    return model


def local_folder(path: str) -> Path:
    """The folder of a Hugging Face model; `ConfigError` when it holds none."""
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model.path: {path} is no folder of a Hugging Face model: it has no config.json")
    return folder


def image_processor(source: str, *, local: bool) -> Mapping[str, object]:
    """The configuration of a model's image processor; empty where it has none."""
    try:
        found: Mapping[str, object] = ImageProcessingMixin.get_image_processor_dict(source, local_files_only=local)[0]
    except OSError:
        return {}
    return found


def load_pretrained(
    head: Any, source: str, *, local: bool, settings: Mapping[str, object], classes_inside: bool = False
) -> Any:
    """A model with a head, from the hub or a local folder; what depends on the number of classes may start fresh.

    Args:
        head: an `AutoModelFor...`.
        settings: further arguments of the configuration.
        classes_inside: whether layers of the body depend on the number of classes, too (detectors): a tensor there may start
            fresh when its first dimension alone differs.

    Raises:
        ConfigError: it cannot be loaded, or tensors are missing or have another shape.
    """
    try:
        model, info = head.from_pretrained(
            source,
            local_files_only=local,
            trust_remote_code=False,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **settings,
        )
    except Exception as error:  # transformers, huggingface_hub, safetensors and httpx raise their own types
        raise ConfigError(
            f"{source} cannot be loaded: {type(error).__name__}: {str(error)[:500]}"
            + ("" if local else "\nWithout network give a local folder as model.path.")
        ) from error
    mismatched = {key: (tuple(stored), tuple(own)) for key, stored, own in info["mismatched_keys"]}
    resized = {key for key, (stored, own) in mismatched.items() if classes_inside and stored[1:] == own[1:]}
    fresh = sorted({*info["missing_keys"], *mismatched})
    body = f"{model.base_model_prefix}."
    inside = [key for key in fresh if key.startswith(body) and "pooler" not in key and key not in resized]
    if inside:
        raise ConfigError(
            f"the weights of {source} do not fit: {len(inside)} tensors are missing or have another shape, first "
            f"{', '.join(inside[:5])}. Check that config.json belongs to them."
        )
    if fresh:
        _log.info("%s has no weights for %s: they start fresh", source, ", ".join(fresh))
    return model


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the fork of loader workers
disable_progress_bar()  # type: ignore[no-untyped-call]
for _name in ("transformers", "huggingface_hub", "httpx"):
    logging.getLogger(_name).setLevel(logging.ERROR)
