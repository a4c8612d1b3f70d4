"""Float models to quantize: one adapter per library, found through `MODELS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qat.data.source import ImageSource
from qat.data.text.source import TextSource
from qat.errors import ConfigError, near
from qat.models.float_model import FloatModel


def _timm(*, task: str, data: ImageSource, **options: Any) -> FloatModel:
    from qat.models.timm import build_timm  # each library takes seconds to import, and a run needs one

    if task != "classification":
        raise ConfigError(f"timm models here are classifiers of images, not for task {task!r}; set model.source=huggingface")
    if options.get("name") is None:
        raise ConfigError("model.name is missing: name a timm model, for example model.name=resnet18")
    return build_timm(num_classes=len(data.labels), **options)


def _huggingface(*, task: str, data: TextSource, **options: Any) -> FloatModel:
    from qat.models.huggingface import build_huggingface

    return build_huggingface(task=task, data=data, **options)


MODELS: dict[str, Callable[..., FloatModel]] = {"timm": _timm, "huggingface": _huggingface}


def build_model(source: str, *, task: str, data: ImageSource | TextSource, **options: Any) -> FloatModel:
    """Build the float model that `source` offers.

    Args:
        source: a key of `MODELS`.
        task: what it is for.
        data: the data set, which gives the model its labels.
        options: keyword arguments of that builder.

    Raises:
        ConfigError: an unknown source, model name or option, weights that do not fit, data of another kind.
    """
    if source not in MODELS:
        raise ConfigError(f"unknown model source {source!r}.{near(source, MODELS)}")
    return MODELS[source](task=task, data=data, **options)


__all__ = ["MODELS", "FloatModel", "build_model"]
