"""Averaged weights: the formula, what is not averaged, and a training that is continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from qat.errors import ConfigError
from qat.quantization.schedule import QATSchedule
from qat.training.callbacks.checkpoint import load_weights
from qat.training.callbacks.ema import EMA, decay_at
from qat.training.callbacks.quantization import ScheduleCallback
from tests.trainings import quick_fit, small_module, small_network, small_prepared


class _Watch(Callback):
    """The weights after every step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.seen.append({name: p.detach().clone() for name, p in pl_module.named_parameters()})


def test_weights_end_as_the_average_of_all_steps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, watch = small_network(), _Watch()
    average = {f"model.{name}": p.detach().clone() for name, p in network.named_parameters()}
    quick_fit(small_module(network), tmp_path, watch, EMA(decay=0.8))
    for step, weights in enumerate(watch.seen):  # torch's AveragedModel copies the weights of the first step
        d = min(0.8, (1 + step) / (10 + step)) if step else 0.0
        average = {n: d * average[n] + (1 - d) * weights[n] for n in weights}
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter, average[f"model.{name}"])
        assert not torch.equal(parameter, watch.seen[-1][f"model.{name}"])


def test_ranges_of_a_prepared_network_are_no_average(tmp_path: Path) -> None:
    torch.manual_seed(0)
    prepared = small_prepared()
    quick_fit(small_module(prepared), tmp_path, ScheduleCallback(prepared, QATSchedule(freeze_ranges_at=0.5)), EMA(decay=0.5))
    torch.manual_seed(0)
    plain = small_prepared()
    quick_fit(small_module(plain), tmp_path / "plain", ScheduleCallback(plain, QATSchedule(freeze_ranges_at=0.5)))
    ours, theirs = dict(prepared.fake_quantizes()), dict(plain.fake_quantizes())
    assert ours.keys() == theirs.keys()
    for name, module in ours.items():
        assert float(module.scale) == float(theirs[name].scale), name
        assert int(module.zero_point) == int(theirs[name].zero_point), name
    assert any(not torch.equal(a, b) for a, b in zip(prepared.parameters(), plain.parameters(), strict=True)), (
        "the weights are an average"
    )


@pytest.mark.parametrize("stop", [7, None])
def test_continued_training_gives_the_same_average(stop: int | None, tmp_path: Path) -> None:
    """After an interruption, and where a finished training is only loaded again."""

    class Interrupt(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            if trainer.global_step == stop:
                raise KeyboardInterrupt

    def start() -> nn.Module:
        torch.manual_seed(0)
        return small_network()

    whole = start()
    quick_fit(small_module(whole), tmp_path / "whole", EMA(decay=0.8))
    first = start()
    if stop is None:
        quick_fit(small_module(first), tmp_path / "again", EMA(decay=0.8))
    else:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            quick_fit(small_module(first), tmp_path / "again", EMA(decay=0.8), Interrupt())
    again = start()
    quick_fit(small_module(again), tmp_path / "again", EMA(decay=0.8))
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    newest = max((tmp_path / "again").glob("*.ckpt"))
    for name, value in load_weights(newest).items():
        torch.testing.assert_close(value, whole.state_dict()[name], msg=f"a baseline has the average, too: {name}")


def test_average_of_a_short_training_is_of_its_last_steps() -> None:
    """With a fixed decay of 0.999 the first weights would count 94 % after 60 steps."""
    first = 1.0
    for step in range(1, 60):
        first *= decay_at(step, 0.999)
    assert first < 1e-6
    assert decay_at(10_000, 0.999) == 0.999
    with pytest.raises(ConfigError, match="decay=1"):
        EMA(decay=1.0)
