"""What every task is: inputs, loss, predictions and statistics of one kind of problem. It trains nothing, holds no network."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Self, TypeAlias, TypeVar

from torch import Tensor, nn

from qat.errors import ConfigError, near
from qat.evaluation.evaluate import Formula, same

Batch = TypeVar("Batch")
Outputs = TypeVar("Outputs")
Prediction = TypeVar("Prediction")


class Task(ABC, Generic[Batch, Outputs, Prediction]):
    """A batch of what kind, a network's outputs of what kind, and what is predicted of a sample.

    Args:
        labels: names of the classes or tags.
        label_smoothing: in [0, 1).
        metric: which of `metrics_for` counts as the task's; None takes the first.

    Raises:
        ConfigError: a smoothing that cannot be, or a metric that the task does not have.
    """

    #: What configurations call it.
    name: ClassVar[str]

    #: The kind of data that the task is for, as sources name theirs.
    reads: ClassVar[str]

    #: Every metric by name, see `qat.evaluation.evaluate`; those that depend on the labels are in `metrics_for`.
    known: ClassVar[Mapping[str, Formula]] = {}

    def __init__(self, *, labels: Sequence[str], label_smoothing: float = 0.0, metric: str | None = None) -> None:
        metrics = self.metrics_for(labels)
        if metric is not None and metric not in metrics:
            raise ConfigError(f"this task has no metric {metric!r}.{near(metric, metrics)}")
        self.labels = tuple(labels)
        self.metric = metric or next(iter(metrics))
        self.formulas = {self.metric: metrics[self.metric], **metrics}
        self.label_smoothing = self._checked_smoothing(label_smoothing)

    @classmethod
    def metrics_for(cls, labels: Sequence[str]) -> Mapping[str, Formula]:
        """Every metric by name, the default first."""
        return cls.known

    def smoothed(self, label_smoothing: float) -> Self:
        """The same task with another label smoothing in its loss."""
        other = copy.copy(self)
        other.label_smoothing = self._checked_smoothing(label_smoothing)
        return other

    @abstractmethod
    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """The network's inputs in a batch."""

    @abstractmethod
    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Loss of what a network returns, shape ()."""

    def training_loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Loss that a training step follows, shape (); a task may train a network with more than its outputs."""
        return self.loss(network(*self.inputs(batch)), batch)

    @abstractmethod
    def predict(self, outputs: Outputs, batch: Batch) -> Sequence[Prediction]:
        """One prediction per sample; a tuple where a sample needs several."""

    @abstractmethod
    def statistics(self, predictions: Sequence[Prediction], batch: Batch) -> Tensor:
        """What the formulas need of each sample, float32 of shape (N, K)."""

    def alike(self, prediction: Prediction, other: Prediction) -> Sequence[bool]:
        """Of each thing that `prediction` says about a sample, whether `other` says it as well."""
        return same(prediction, other)

    def describe(self, prediction: Prediction) -> str:
        """A prediction in words, for people."""
        return self.labels[prediction] if isinstance(prediction, int) else str(prediction)

    def _checked_smoothing(self, label_smoothing: float) -> float:
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        return label_smoothing


#: A task of which no more is known.
AnyTask: TypeAlias = Task[Any, Any, Any]
