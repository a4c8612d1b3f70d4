"""timm models: any name of `timm.list_models()`, a local model folder or a checkpoint file."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import nn

from qat.deploy.preprocess import ImagePreprocess
from qat.errors import ConfigError
from qat.models.float_model import FloatModel
from qat.models.weights import load_weights_, weights_file


def build_timm(
    *,
    name: str,
    num_classes: int,
    pretrained: bool = False,
    path: str | None = None,
    image_size: int | None = None,
    in_channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
    interpolation: str | None = None,
    options: Mapping[str, object] | None = None,
) -> FloatModel:
    """Build a timm classifier.

    Args:
        name: architecture, with or without a pretrained tag (`resnet18.a1_in1k`).
        num_classes: classes of the new classifier; one loaded with another number starts fresh.
        pretrained: take the weights from the hub; needs the network or a filled cache.
        path: take the weights from here instead: a checkpoint file, or a folder with config.json and weights.
        image_size: height and width in pixels; None takes the model's own.
        in_channels: 3, or 1 for grey images (mean and std are then averaged over the model's own).
        mean, std, crop_pct, crop_mode, interpolation: preprocessing where the weights want another than timm says.
        options: further arguments of `timm.create_model`, such as `pad_type` or `drop_path_rate`.

    Raises:
        ConfigError: an unknown name or option, weights that do not fit, or a hub that cannot be reached.
    """
    if pretrained and path is not None:
        raise ConfigError("model.pretrained and model.path are two sources of weights: give one of them.")
    folder = Path(path) if path is not None and Path(path).is_dir() else None
    file = weights_file(Path(path)) if path is not None else None
    architecture = _check_name(name) if folder is None else _check_folder(folder, name)
    arguments: dict[str, object] = {"num_classes": num_classes, "in_chans": in_channels, **(options or {})}
    fixed_size = _has_fixed_size(architecture)
    if image_size is not None and fixed_size:
        arguments["img_size"] = image_size
    module = _create(f"local-dir:{folder}" if folder else name, pretrained, arguments)
    pretrained_cfg: dict[str, Any] = vars(module)["pretrained_cfg"]
    config = resolve_model_data_config(module)  # type: ignore[no-untyped-call]
    height, width = config["input_size"][1:] if image_size is None else (image_size, image_size)
    if file is not None:
        heads = pretrained_cfg["classifier"]
        load_weights_(module, file, classifiers=(heads,) if isinstance(heads, str) else heads)
    preprocessing = _preprocessing(
        channels=in_channels,
        height=height,
        width=width,
        mean=config["mean"] if mean is None else mean,
        std=config["std"] if std is None else std,
        crop_pct=config["crop_pct"] if crop_pct is None else crop_pct,
        crop_mode=crop_mode or config["crop_mode"],
        interpolation=interpolation or config["interpolation"],
    )
    example = torch.randn(2, in_channels, height, width, generator=torch.Generator().manual_seed(0))
    return FloatModel(name=name, module=module, example_inputs=(example,), preprocessing=preprocessing)


def _check_name(name: str) -> str:
    """The name, when timm knows it."""
    if not timm.is_model(name.partition(".")[0]):
        names = timm.list_models()
        close = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
        raise ConfigError(
            f"unknown timm model {name!r}. Nearest: {', '.join(close) or 'none'}. "
            f"All {len(names)}: python -c 'import timm; print(timm.list_models())'"
        )
    return name


def _has_fixed_size(name: str) -> bool:
    """Whether the model is built for one image size (`img_size`), as most transformers are.

    Raises:
        ConfigError: timm knows the architecture but not the pretrained tag.
    """
    try:
        known = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
        raise ConfigError(f"unknown timm model {name!r}: {error} Tags: {', '.join(tags)}") from error
    return known is not None and known.fixed_input_size


def _check_folder(folder: Path, name: str) -> str:
    """The architecture that a local model folder states, when it is the one asked for."""
    try:
        architecture = str(json.loads((folder / "config.json").read_text())["architecture"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"model.path: {folder} has no config.json that names a timm architecture: {error}") from error
    if architecture != name.partition(".")[0]:
        raise ConfigError(f"model.path: {folder} holds a {architecture!r}, but model.name is {name!r}.")
    return _check_name(architecture)


def _create(name: str, pretrained: bool, arguments: dict[str, Any]) -> nn.Module:
    try:
        module: nn.Module = timm.create_model(name, pretrained=pretrained, **arguments)
    except (TypeError, AssertionError) as error:
        raise ConfigError(f"timm cannot build {name!r} with {arguments}: {error}") from error
    except Exception as error:  # the hub clients raise their own types for no network, no cache and no such file
        if not pretrained:
            raise ConfigError(f"timm cannot build {name!r} with {arguments}: {error}") from error
        raise ConfigError(
            f"the pretrained weights of {name!r} cannot be had from the hub: {error}\n"
            "Without network give a local checkpoint or model folder as model.path."
        ) from error
    return module


def _preprocessing(
    *,
    channels: int,
    height: int,
    width: int,
    mean: Sequence[float],
    std: Sequence[float],
    crop_pct: float,
    crop_mode: str,
    interpolation: str,
) -> ImagePreprocess:
    return ImagePreprocess(
        channels=channels,
        height=int(height),
        width=int(width),
        resize=(math.floor(height / crop_pct), math.floor(width / crop_pct)),
        crop_mode=crop_mode,
        interpolation=interpolation,
        mean=_per_channel(mean, channels),
        std=_per_channel(std, channels),
    )


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """As many values as channels: as given, or their average where the model's own are for another number."""
    if len(values) == channels:
        return tuple(float(value) for value in values)
    return (sum(values) / len(values),) * channels
