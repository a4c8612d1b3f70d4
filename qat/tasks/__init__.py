"""Tasks by name: one file each, found through `TASKS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qat.errors import ConfigError, near
from qat.tasks.classification import ClassificationTask
from qat.tasks.optimizer import OptimizerFactory
from qat.tasks.task import Task

TASKS: dict[str, Callable[..., Task]] = {"classification": ClassificationTask}


def build_task(name: str, **options: Any) -> Task:
    """A task by name; `ConfigError` when there is none."""
    if name not in TASKS:
        raise ConfigError(f"unknown task {name!r}.{near(name, TASKS)}")
    return TASKS[name](**options)


__all__ = ["TASKS", "ClassificationTask", "OptimizerFactory", "Task", "build_task"]
