"""Tasks by name: one file each, found through `TASKS`."""

from __future__ import annotations

from typing import Any

from qat.errors import ConfigError, near
from qat.tasks.classification import ClassificationTask
from qat.tasks.detection import DetectionTask
from qat.tasks.question_answering import QuestionAnsweringTask
from qat.tasks.task import AnyTask, Task
from qat.tasks.text_classification import TextClassificationTask
from qat.tasks.token_classification import TokenClassificationTask

TASKS: dict[str, type[AnyTask]] = {
    "classification": ClassificationTask,
    "detection": DetectionTask,
    "text_classification": TextClassificationTask,
    "token_classification": TokenClassificationTask,
    "question_answering": QuestionAnsweringTask,
}


def check_data(task: str, kind: str) -> None:
    """Refuse data of another kind than a task reads.

    Raises:
        ConfigError: unknown task, or data that is not for it.
    """
    reads = _known(task).reads
    if reads != kind:
        fitting = [name for name, other in TASKS.items() if other.reads == kind]
        raise ConfigError(f"task={task} reads {reads}, the data has {kind}; set task={fitting[0]} or other data")


def default_metric(task: str) -> str:
    """The metric that counts when none is chosen; `ConfigError` for an unknown task."""
    return next(iter(_known(task).metrics_for([])))


def build_task(name: str, **options: Any) -> AnyTask:
    """A task by name; `ConfigError` when there is none."""
    return _known(name)(**options)


def _known(name: str) -> type[AnyTask]:
    if name not in TASKS:
        raise ConfigError(f"unknown task {name!r}.{near(name, TASKS)}")
    return TASKS[name]


__all__ = [
    "TASKS",
    "AnyTask",
    "ClassificationTask",
    "DetectionTask",
    "QuestionAnsweringTask",
    "Task",
    "TextClassificationTask",
    "TokenClassificationTask",
    "build_task",
    "check_data",
    "default_metric",
]
