from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from qat.quantization.prepared import PreparedModel
from qat.quantization.schedule import QATSchedule
from qat.training.callbacks.quantization import ScheduleCallback
from tests.quantization.networks import observed
from tests.trainings import quick_fit, small_module, small_prepared

Switches = set[tuple[bool, bool]]


class Watch(Callback):
    """(observing, quantizing) of every activation, in every training and validation step."""

    def __init__(self, prepared: PreparedModel) -> None:
        self.prepared = prepared
        self.train: list[Switches] = []
        self.val: list[Switches] = []

    def switches(self) -> Switches:
        return {(module.observing, module.quantizing) for _, module in self.prepared.fake_quantizes()}

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self.train.append(self.switches())
        assert {weight.quantizing for _, weight in self.prepared.stored_fake_quantizes()} == {q for _, q in self.switches()}

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self.val.append(self.switches())


@pytest.mark.parametrize(("quantize_from", "freeze_at"), [(0.0, 0.0), (0.0, 0.5), (0.25, 0.75), (0.5, 0.25), (0.1, 1.0)])
def test_switches_turn_exactly_at_the_scheduled_steps(tmp_path: Path, quantize_from: float, freeze_at: float) -> None:
    prepared = small_prepared()
    watch = Watch(prepared)
    schedule = QATSchedule(quantize_from=quantize_from, freeze_ranges_at=freeze_at)
    quick_fit(small_module(prepared), tmp_path, ScheduleCallback(prepared, schedule), watch, epochs=2)
    assert watch.train == [{(step < freeze_at * 12, step >= quantize_from * 12)} for step in range(12)]


def test_total_is_the_number_of_steps_when_that_ends_the_training(tmp_path: Path) -> None:
    prepared = small_prepared()
    watch = Watch(prepared)
    callback = ScheduleCallback(prepared, QATSchedule(freeze_ranges_at=0.5))
    quick_fit(small_module(prepared), tmp_path, callback, watch, max_steps=8)
    assert watch.train == [{(step < 4, True)} for step in range(8)]


def test_observers_rest_in_validation(tmp_path: Path) -> None:
    class Ranges(Callback):
        """Ranges before and after each validation."""

        def __init__(self) -> None:
            self.pairs: list[list[torch.Tensor]] = []

        def read(self) -> torch.Tensor:
            return torch.stack([torch.stack(observed(module).range()) for _, module in prepared.fake_quantizes()])

        def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.pairs.append([self.read()])

        def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.pairs[-1].append(self.read())

    prepared = small_prepared()
    watch, ranges = Watch(prepared), Ranges()
    start = ranges.read()
    callback = ScheduleCallback(prepared, QATSchedule(freeze_ranges_at=1.0))
    quick_fit(small_module(prepared), tmp_path, callback, watch, ranges, epochs=2)
    for before, after in ranges.pairs:
        assert torch.equal(before, after)
    assert not torch.equal(ranges.pairs[0][0], ranges.pairs[1][0]), "observers must move in training"
    assert not torch.equal(start, ranges.pairs[0][0])


def test_trained_model_rounds_and_observes_no_more(tmp_path: Path) -> None:
    prepared = small_prepared()
    watch = Watch(prepared)
    quick_fit(small_module(prepared), tmp_path, ScheduleCallback(prepared, QATSchedule(freeze_ranges_at=1.0)), epochs=1)
    assert watch.switches() == {(False, True)}


def test_ranges_stay_as_calibrated_when_they_are_frozen_from_the_start(tmp_path: Path) -> None:
    prepared = small_prepared()
    before = [(name, module.qparams()) for name, module in prepared.fake_quantizes()]
    quick_fit(small_module(prepared), tmp_path, ScheduleCallback(prepared, QATSchedule(freeze_ranges_at=0.0)), epochs=1)
    assert [(name, module.qparams()) for name, module in prepared.fake_quantizes()] == before
