"""What every task is: a LightningModule that trains whatever `nn.Module` it is given and knows nothing of quantization."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pytorch_lightning import LightningModule
from torch import Tensor, nn

from qat.errors import ConfigError, near
from qat.evaluation.evaluate import Formula, same
from qat.training.optimizer import OptimizerFactory
from qat.training.running_metric import RunningMetric


class Task(LightningModule, ABC):
    """Loss, decisions and statistics of one kind of problem.

    Args:
        model: the network; float, prepared for QAT, anything with the right outputs.
        labels: names of the classes or tags.
        optimizer: how its weights move.
        label_smoothing: in [0, 1).
        metric: which of `metrics_for` counts as the task's; None takes the first.
    """

    #: The kind of data that the task is for, as sources name theirs.
    reads: ClassVar[str]

    #: Every metric by name, see `qat.evaluation.evaluate`; those that depend on the labels are in `metrics_for`.
    known: ClassVar[Mapping[str, Formula]] = {}

    def __init__(
        self,
        model: nn.Module,
        *,
        labels: Sequence[str],
        optimizer: OptimizerFactory,
        label_smoothing: float = 0.0,
        metric: str | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        metrics = self.metrics_for(labels)
        if metric is not None and metric not in metrics:
            raise ConfigError(f"this task has no metric {metric!r}.{near(metric, metrics)}")
        self.model = model
        self.labels = tuple(labels)
        self.label_smoothing = label_smoothing
        self.metric = metric or next(iter(metrics))
        self.formulas = {self.metric: metrics[self.metric], **metrics}
        self._optimizer = optimizer
        self._validated = RunningMetric(metrics[self.metric])

    @classmethod
    def metrics_for(cls, labels: Sequence[str]) -> Mapping[str, Formula]:
        """Every metric by name, the default first."""
        return cls.known

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        """The model's inputs in a batch."""
        inputs: tuple[Tensor, ...] = batch.inputs
        return inputs

    @abstractmethod
    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Training loss, shape ()."""

    @abstractmethod
    def decide(self, outputs: Any, batch: Any) -> Sequence[Any]:
        """One decision per sample; a tuple where a sample needs several."""

    @abstractmethod
    def statistics(self, decisions: Sequence[Any], batch: Any) -> Tensor:
        """What the formulas need of each sample, float32 of shape (N, K)."""

    def alike(self, decision: Any, other: Any) -> Sequence[bool]:
        """Of each thing that `decision` says about a sample, whether `other` says it as well."""
        return same(decision, other)

    def describe(self, decision: Any) -> str:
        """A decision in words, for people."""
        return self.labels[decision] if isinstance(decision, int) else str(decision)

    def forward(self, *inputs: Tensor) -> Any:
        return self.model(*inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs = self.inputs(batch)
        loss = self.loss(self.model(*inputs), batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(inputs[0]))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        outputs = self.model(*self.inputs(batch))
        statistics = self.statistics(self.decide(outputs, batch), batch)
        self._validated.update(statistics.to(self.device))
        self.log("val/loss", self.loss(outputs, batch), batch_size=len(statistics), sync_dist=True)
        self.log(f"val/{self.metric}", self._validated, prog_bar=True, batch_size=len(statistics))

    def configure_optimizers(self) -> Any:
        return self._optimizer.build(self.model, int(self.trainer.estimated_stepping_batches))
