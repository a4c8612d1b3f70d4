"""Float models to quantize: one adapter per library, found through `MODELS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qat.data import DataSource
from qat.errors import ConfigError, near
from qat.models.float_model import FloatModel


def _timm(*, task: str, data: DataSource, head: str | None = None, head_options: Any = None, **options: Any) -> FloatModel:
    from qat.models.timm import build_timm  # each library takes seconds to import, and a run needs one

    if task not in ("classification", "detection"):
        raise ConfigError(f"timm models are for images, not for task {task!r}; set model.source=huggingface")
    if options.get("name") is None:
        raise ConfigError("model.name is missing: name a timm model, for example model.name=resnet18")
    if task == "detection":
        from qat.models.dense import build_dense

        return build_dense(num_classes=len(data.labels), head=head or "fcos", head_options=head_options, **options)
    if head is not None or head_options:
        raise ConfigError("model.head and model.head_options are for task=detection; leave them out")
    return build_timm(num_classes=len(data.labels), **options)


def _huggingface(*, task: str, data: DataSource, **options: Any) -> FloatModel:
    builder, others = (_detector, TEXT_KEYS) if task == "detection" else (_encoder, IMAGE_KEYS)
    for key in others:
        if options.pop(key, None) is not None:
            raise ConfigError(f"model.{key} has no meaning for Hugging Face models of task {task!r}; leave it out")
    return builder(task=task, data=data, **options)


def _encoder(*, task: str, data: Any, **options: Any) -> FloatModel:
    from qat.models.huggingface import build_huggingface

    return build_huggingface(task=task, data=data, **options)


def _detector(*, task: str, data: Any, **options: Any) -> FloatModel:
    from qat.models.hf_detector import build_hf_detector

    return build_hf_detector(data=data, **options)


#: Options of Hugging Face models that read images, and of those that read text.
IMAGE_KEYS = ("image_size", "crop_mode", "mean", "std")
TEXT_KEYS = ("tokenizer", "max_length")

MODELS: dict[str, Callable[..., FloatModel]] = {"timm": _timm, "huggingface": _huggingface}


def build_model(source: str, *, task: str, data: DataSource, **options: Any) -> FloatModel:
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
