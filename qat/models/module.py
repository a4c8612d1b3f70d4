"""A user's own network, or one of torchvision: any function that returns an `nn.Module`.

model=module model.target=mypackage.nets:build
model=module model.target=torchvision.models:resnet18
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from torch import nn

from qat.data import DataSource
from qat.deploy.postprocess import decoder
from qat.deploy.preprocess import ImagePreprocess
from qat.environment import look_into_current_folder_
from qat.errors import ConfigError
from qat.models.float_model import FloatModel
from qat.models.weights import load_weights_, weights_file

#: Statistics of ImageNet's images; of grey ones the middle of the range.
MEAN, STD = {3: (0.485, 0.456, 0.406), 1: (0.5,)}, {3: (0.229, 0.224, 0.225), 1: (0.5,)}

#: What is kept of a detector with queries.
QUERIES = {"activation": "sigmoid", "limit": 100}


def build_module(
    *,
    task: str,
    data: DataSource,
    target: str,
    name: str | None = None,
    path: str | None = None,
    image_size: int = 224,
    in_channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
    interpolation: str = "bilinear",
    postprocessing: Mapping[str, object] | None = None,
    options: Mapping[str, object] | None = None,
) -> FloatModel:
    """Build what the user's function returns.

    Args:
        task: `classification`: images (N, C, H, W) -> logits (N, classes). `detection`: images -> a tuple of raw outputs that
            `postprocessing` decodes; the module has an attribute `criterion`, see `qat.tasks.detection.Criterion`.
        target: `package.module:function` (or a class), looked for in the current folder as well. It is called with `options`,
            and with `num_classes` when it takes that.
        path: weights of the whole network; a last layer for another number of classes is refused.
        image_size, in_channels, mean, std, interpolation: how an input is made of an image.
        crop_pct, crop_mode: likewise; None is 0.875 around the centre, and a letterbox for detectors, which see all of it.
        postprocessing: for detection, a record of `qat.deploy.postprocess`; `height`, `width`, `activation` and `limit` of
            `kind: queries` have defaults.

    Raises:
        ConfigError: no such function, options that it does not take, or a network that does not do what the task needs.
    """
    built = _call(target, {**(options or {})}, classes=len(data.labels))
    if path is not None:
        load_weights_(built, weights_file(Path(path)), classifiers=())
    detects = task == "detection"
    if detects and (crop_mode == "center" or crop_pct not in (None, 1.0)):
        raise ConfigError("a detector sees the whole image: model.crop_mode is border or squash, and model.crop_pct is 1")
    resized = round(image_size / (crop_pct or (1.0 if detects else 0.875)))
    preprocessing = ImagePreprocess(
        channels=in_channels,
        height=image_size,
        width=image_size,
        resize=(resized, resized),
        crop_mode=crop_mode or ("border" if detects else "center"),
        interpolation=interpolation,
        mean=tuple(float(x) for x in (MEAN.get(in_channels, (0.5,) * in_channels) if mean is None else mean)),
        std=tuple(float(x) for x in (STD.get(in_channels, (0.5,) * in_channels) if std is None else std)),
    )
    example = torch.randn(2, in_channels, image_size, image_size, generator=torch.Generator().manual_seed(0))
    outputs = _run(built, example, target)
    task_options: dict[str, object] = {}
    if detects:
        task_options = _detection(built, outputs, {**(postprocessing or {})}, image_size, target)
    elif not (isinstance(outputs, torch.Tensor) and outputs.shape == (2, len(data.labels))):
        found = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise ConfigError(
            f"{target} returns {found} for 2 images; a classifier of {len(data.labels)} classes returns a tensor of shape "
            f"(2, {len(data.labels)})"
        )
    return FloatModel(
        name=name or target.rpartition(":")[2],
        module=built,
        example_inputs=(example,),
        preprocessing=preprocessing,
        task_options=task_options,
    )


def _call(target: str, options: dict[str, object], *, classes: int) -> nn.Module:
    look_into_current_folder_()
    if ":" not in target:
        raise ConfigError(f"model.target={target}: write it as package.module:function")
    try:
        function = resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"model.target={target} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise ConfigError(f"model.target={target} is a {type(function).__name__}, not a function")
    parameters = inspect.signature(function).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if "num_classes" not in options and ("num_classes" in parameters or open_ended):
        options["num_classes"] = classes
    try:
        built = function(**options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{target}({', '.join(f'{k}={v!r}' for k, v in options.items())}) fails: {error}") from error
    if not isinstance(built, nn.Module):
        raise ConfigError(f"{target} returns a {type(built).__name__}, not an nn.Module")
    return built


def _run(network: nn.Module, example: torch.Tensor, target: str) -> object:
    """What the network returns for the example in evaluation."""
    was = network.training
    try:
        with torch.no_grad():
            return network.eval()(example)
    except Exception as error:  # a user's code raises anything
        shape = tuple(example.shape)
        raise ConfigError(f"{target} cannot take images of shape {shape}: {type(error).__name__}: {error}") from error
    finally:
        network.train(was)


def _detection(network: nn.Module, outputs: Any, record: dict[str, object], size: int, target: str) -> dict[str, object]:
    """Criterion and decoder of a detector."""
    criterion = getattr(network, "criterion", None)
    if not callable(criterion):
        raise ConfigError(
            f"{target}: a detector has an attribute `criterion`, called as criterion(outputs, corners, labels), that gives "
            "its loss on raw outputs"
        )
    if record.get("kind") == "queries":
        record = {**QUERIES, "height": size, "width": size, **record}
    try:
        decoder(record)([outputs] if isinstance(outputs, torch.Tensor) else list(outputs))
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, AttributeError) as error:
        raise ConfigError(
            f"model.postprocessing={record} cannot decode what {target} returns: {type(error).__name__}: {error}"
        ) from error
    return {"criterion": criterion, "postprocessing": record}
