"""Float models to quantize: one adapter per library, found through `MODELS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qat.errors import ConfigError, near
from qat.models.float_model import FloatModel
from qat.models.timm import build_timm

MODELS: dict[str, Callable[..., FloatModel]] = {"timm": build_timm}


def build_model(source: str, **options: Any) -> FloatModel:
    """Build the float model that `source` offers.

    Args:
        source: a key of `MODELS`.
        options: keyword arguments of that builder.

    Raises:
        ConfigError: an unknown source, model name or option, or weights that do not fit.
    """
    if source not in MODELS:
        raise ConfigError(f"unknown model source {source!r}.{near(source, MODELS)}")
    return MODELS[source](**options)


__all__ = ["MODELS", "FloatModel", "build_model", "build_timm"]
