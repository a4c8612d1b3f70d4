"""The LightningModule of every training: the task's loss is followed and logged, its metric validated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from qat.tasks import ClassificationTask
from qat.training.module import TrainingModule
from qat.training.optimizer import OptimizerFactory
from tests.trainings import IMAGES, TARGETS, quick_fit, small_module, small_network


class _Logged(Callback):
    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen.update({name: torch.as_tensor(value) for name, value in trainer.callback_metrics.items()})


def test_validation_logs_loss_and_metric_of_the_whole_set(tmp_path: Path) -> None:
    module, logged = small_module(small_network()), _Logged()
    quick_fit(module, tmp_path, logged, epochs=1)
    with torch.no_grad():
        outputs = module.model(IMAGES)
    batch = (IMAGES, TARGETS)
    assert float(logged.seen["val/top1"]) == pytest.approx(100 * float((outputs.argmax(1) == TARGETS).float().mean()))
    torch.testing.assert_close(logged.seen["val/loss"], module.task.loss(outputs, batch))
    assert "train/loss" in logged.seen


class _TwiceTheLoss(ClassificationTask):
    """A task that trains a network by more than its outputs."""

    def training_loss(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return 2 * super().training_loss(network, batch)


def test_step_follows_the_loss_that_the_task_takes_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    task, network = _TwiceTheLoss(labels=tuple("abc")), small_network()
    module = TrainingModule(network, task, OptimizerFactory())
    logged: dict[str, tuple[Tensor, int]] = {}
    monkeypatch.setattr(module, "log", lambda name, value, prog_bar, batch_size: logged.update({name: (value, batch_size)}))
    loss = module.training_step((IMAGES, TARGETS), 0)
    assert torch.equal(loss, 2 * task.loss(network(IMAGES), (IMAGES, TARGETS)))
    assert logged == {"train/loss": (loss, 24)}


def test_network_is_trained_in_place_and_named_model_in_checkpoints() -> None:
    network = small_network()
    module = small_module(network)
    assert module.model is network
    assert list(module.state_dict()) == [f"model.{name}" for name in network.state_dict()]
