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
    task.name: task
    for task in (
        ClassificationTask,
        DetectionTask,
        TextClassificationTask,
        TokenClassificationTask,
        QuestionAnsweringTask,
    )
}


def task_reading(kind: str, name: str = "auto") -> str:
    """The task for data of a kind: the first that reads them, or the one of this name, which must.

    Raises:
        ConfigError: unknown task, or data that is not for it.
    """
    fitting = [task.name for task in TASKS.values() if task.reads == kind]
    if name not in ("auto", *fitting):
        others = " or ".join(fitting)
        raise ConfigError(f"task={name} reads {_known(name).reads}, the data has {kind}; set task={others} or other data")
    return fitting[0] if name == "auto" else name


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
    "default_metric",
    "task_reading",
]
