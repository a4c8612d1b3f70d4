"""Data: sources found through `SOURCES`, and the data module that makes batches of one.

The two are apart because the model stands between them: its classifier needs the source's labels, and the batches need
the model's preprocessing.

    source = build_source("digits")
    model = build_model("timm", name="resnet10t", num_classes=len(source.labels))
    data = build_data(source, preprocessing=model.preprocessing)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from qat.data.digits import digits_source
from qat.data.folder import folder_source
from qat.data.huggingface import huggingface_source
from qat.data.images import ImageData
from qat.data.source import ImageSource
from qat.errors import ConfigError, near

SOURCES: dict[str, Callable[..., ImageSource]] = {
    "digits": digits_source,
    "folder": folder_source,
    "huggingface": huggingface_source,
}


def build_source(source: str, **options: Any) -> ImageSource:
    """Find the images and labels of a source; nothing is decoded yet.

    Args:
        source: a key of `SOURCES`.
        options: keyword arguments of that function, such as `root`.

    Raises:
        ConfigError: an unknown source, or an unknown or missing option.
        DataError: data that is missing or empty.
    """
    if source not in SOURCES:
        raise ConfigError(f"unknown data source {source!r}.{near(source, SOURCES)}")
    allowed = inspect.signature(SOURCES[source]).parameters
    for name in options:
        if name not in allowed:
            raise ConfigError(f"the data source {source!r} has no option {name!r}.{near(name, allowed)}")
    missing = [name for name, it in allowed.items() if it.default is it.empty and name not in options]
    if missing:
        raise ConfigError(f"the data source {source!r} needs the option {', '.join(missing)}")
    return SOURCES[source](**options)


def build_data(source: ImageSource, **options: Any) -> ImageData:
    """The data module of a source; see `ImageData` for the options."""
    return ImageData(source, **options)


__all__ = ["SOURCES", "ImageData", "ImageSource", "build_data", "build_source"]
