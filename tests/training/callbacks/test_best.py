"""The weights of the best validation, alone and with averaged weights, and when a training is continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from qat.errors import ConfigError
from qat.training.callbacks.best import KeepBest
from qat.training.callbacks.checkpoint import load_weights
from qat.training.callbacks.ema import EMA
from tests.trainings import IMAGES, TARGETS, quick_fit, small_module, small_network


class _Validated(Callback):
    """Weights and value at every validation."""

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor
        self.weights: list[dict[str, Tensor]] = []
        self.values: list[float] = []

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights.append({name.removeprefix("model."): p.detach().clone() for name, p in pl_module.named_parameters()})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.values.append(float(trainer.callback_metrics[self.monitor]))


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize(("monitor", "mode"), [("val/top1", "max"), ("val/loss", "min"), ("val/loss", "max")])
def test_network_ends_with_the_weights_that_validated_best(monitor: str, mode: str, averaged: bool, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network, seen = small_network(), _Validated(monitor)
    others = [EMA(decay=0.7)] if averaged else []
    quick_fit(small_module(network, lr=0.3), tmp_path, seen, KeepBest(monitor=monitor, mode=mode), *others, epochs=5)
    best = (max if mode == "max" else min)(seen.values)
    expected = seen.weights[seen.values.index(best)]
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, expected[name]), name
    if monitor == "val/top1":
        assert best == pytest.approx(100 * float((network(IMAGES).argmax(1) == TARGETS).float().mean()))
    newest = load_weights(max(tmp_path.glob("*.ckpt")))
    assert all(torch.equal(newest[name], value) for name, value in network.state_dict().items()), "as a baseline, too"


def test_finished_training_that_is_loaded_again_has_the_best_weights(tmp_path: Path) -> None:
    networks = []
    for _ in range(2):
        torch.manual_seed(1)
        networks.append(small_network())
        quick_fit(small_module(networks[-1], lr=0.3), tmp_path, KeepBest("val/loss", "max"), epochs=4)
    whole, again = (network.state_dict() for network in networks)
    assert all(torch.equal(again[name], value) for name, value in whole.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"mode": "maxi"}, "unknown mode.*Did you mean 'max'"), ({"monitor": "val/top"}, "is not logged.*val/top1")],
)
def test_what_cannot_be_watched_is_refused(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        quick_fit(small_module(small_network()), tmp_path, KeepBest(**arguments), epochs=1)
