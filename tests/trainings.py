"""Training in a blink: random images, a convolution and a linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningDataModule
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from qat.quantization.calibrate import calibrate
from qat.quantization.prepare import prepare
from qat.quantization.prepared import PreparedModel
from qat.tasks import ClassificationTask
from qat.training.fit import FitOptions, fit
from qat.training.module import TrainingModule
from qat.training.optimizer import OptimizerFactory

IMAGES = torch.randn(24, 3, 6, 6, generator=torch.Generator().manual_seed(0))
TARGETS = IMAGES.mean((2, 3)).argmax(1)


class RandomImages(LightningDataModule):
    """24 images in the same order in every epoch: 6 batches of 4 to train, 2 of 12 to validate."""

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(IMAGES, TARGETS), batch_size=4)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(IMAGES, TARGETS), batch_size=12)


def small_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def small_prepared() -> PreparedModel:
    prepared = prepare(small_network().eval(), (IMAGES[:2],))
    calibrate(prepared, [IMAGES])
    return prepared


def small_module(network: nn.Module, *, lr: float = 1e-2) -> TrainingModule:
    return TrainingModule(network, ClassificationTask(labels=tuple("abc")), OptimizerFactory(lr=lr, warmup=0.0))


def quick_fit(
    module: TrainingModule,
    folder: Path,
    *callbacks: Callback,
    epochs: int = 2,
    max_steps: int | None = None,
    clip: float | None = 1.0,
    loggers: Sequence[Logger] = (),
) -> None:
    options = FitOptions(max_epochs=epochs, max_steps=max_steps, gradient_clip_val=clip)
    fit(module, RandomImages(), options, folder=folder, callbacks=callbacks, loggers=loggers)
