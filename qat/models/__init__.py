"""Float models to quantize: one adapter per library and kind, found through `MODELS`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from qat.data import DataSource
from qat.errors import ConfigError, near
from qat.models.float_model import FloatModel

TEXT_TASKS = ("text_classification", "token_classification", "question_answering")


@dataclass(frozen=True)
class Adapter:
    """Where a kind of model is built, and what it is for.

    Args:
        module, function: imported when it is needed; each library takes seconds. Of `task`, `data` and `num_classes` it is
            given what it has parameters for.
        tasks: what its models can do.
    """

    module: str
    function: str
    tasks: tuple[str, ...]

    def load(self) -> Callable[..., FloatModel]:
        """The function that builds the model."""
        builder: Callable[..., FloatModel] = getattr(import_module(self.module), self.function)
        return builder


MODELS: dict[str, Adapter] = {
    "timm": Adapter("qat.models.timm", "build_timm", ("classification",)),
    "timm_detector": Adapter("qat.models.dense", "build_dense", ("detection",)),
    "hf_image": Adapter("qat.models.hf_image", "build_hf_image", ("classification",)),
    "hf_text": Adapter("qat.models.hf_text", "build_hf_text", TEXT_TASKS),
    "hf_detector": Adapter("qat.models.hf_detector", "build_hf_detector", ("detection",)),
    "module": Adapter("qat.models.module", "build_module", ("classification", "detection")),
}


def build_model(kind: str, *, task: str, data: DataSource, **options: object) -> FloatModel:
    """Build a float model.

    Args:
        kind: a key of `MODELS`.
        task: what it is for.
        data: the data set, which gives the model its labels.
        options: keyword arguments of that builder.

    Raises:
        ConfigError: an unknown kind, model name or option, weights that do not fit, data of another kind.
    """
    if kind not in MODELS:
        raise ConfigError(f"unknown kind of model {kind!r}.{near(kind, MODELS)}")
    adapter = MODELS[kind]
    if task not in adapter.tasks:
        fitting = [name for name, other in MODELS.items() if task in other.tasks]
        raise ConfigError(
            f"model={kind} is for {', '.join(adapter.tasks)}, the task is {task}; set model={' or '.join(fitting)}"
        )
    builder = adapter.load()
    given = {"task": task, "data": data, "num_classes": len(data.labels)}
    known = inspect.signature(builder).parameters
    return builder(**{name: value for name, value in given.items() if name in known}, **options)


__all__ = ["MODELS", "FloatModel", "build_model"]
