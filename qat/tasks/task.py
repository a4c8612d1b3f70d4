"""What every task is: a LightningModule that trains whatever `nn.Module` it is given and knows nothing of quantization."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning import LightningModule
from torch import Tensor, nn

from qat.errors import ConfigError, near
from qat.evaluate import Formula
from qat.tasks.optimizer import OptimizerFactory
from qat.tasks.running import RunningMetric


class Task(LightningModule, ABC):
    """Loss, decisions and statistics of one kind of problem.

    Args:
        model: the network; float, prepared for QAT, anything with the right outputs.
        optimizer: how its weights move.
        formulas: every metric by name, see `qat.evaluate`; the first one is the task's.
    """

    #: The kind of data that the task is for, as sources name theirs.
    reads: str

    def __init__(self, model: nn.Module, *, optimizer: OptimizerFactory, formulas: Mapping[str, Formula]) -> None:
        super().__init__()
        self.model = model
        self.formulas = formulas
        self._optimizer = optimizer
        self._validated = RunningMetric(next(iter(formulas.values())))

    @property
    def metric(self) -> str:
        """Name of the task's metric; its unit is points."""
        return next(iter(self.formulas))

    @abstractmethod
    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        """The model's inputs in a batch."""

    @abstractmethod
    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Training loss, shape ()."""

    @abstractmethod
    def decide(self, outputs: Any, batch: Any) -> Sequence[Any]:
        """One decision per sample; a tuple where a sample needs several."""

    @abstractmethod
    def statistics(self, decisions: Sequence[Any], batch: Any) -> Tensor:
        """What the formulas need of each sample, float32 of shape (N, K)."""

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
        self.log("val/loss", self.loss(outputs, batch), batch_size=len(statistics))
        self.log(f"val/{self.metric}", self._validated, prog_bar=True, batch_size=len(statistics))

    def configure_optimizers(self) -> Any:
        return self._optimizer.build(self.model, int(self.trainer.estimated_stepping_batches))


def chosen(formulas: Mapping[str, Formula], metric: str | None) -> dict[str, Formula]:
    """The formulas with the asked-for metric first; None keeps their order.

    Raises:
        ConfigError: the task has no such metric.
    """
    if metric is None:
        return dict(formulas)
    if metric not in formulas:
        raise ConfigError(f"this task has no metric {metric!r}.{near(metric, formulas)}")
    return {metric: formulas[metric], **formulas}


def checked_smoothing(value: float) -> float:
    """A label smoothing, when it is one."""
    if not 0 <= value < 1:
        raise ConfigError(f"label_smoothing must lie in [0, 1), got {value}")
    return value
