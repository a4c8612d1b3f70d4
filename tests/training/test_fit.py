from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from qat.errors import ConfigError, DivergedError
from qat.training.fit import FitOptions
from tests.trainings import IMAGES, TARGETS, quick_fit, small_module, small_network


class Steps(Callback):
    """The loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))


def _plain_training(network: nn.Module, *, lr: float, epochs: int, clip: float | None) -> list[float]:
    """The reference: AdamW, cosine, clipped gradients, written out."""
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.0)
    losses, total = [], epochs * 6
    for step in range(total):
        start = 4 * (step % 6)
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / total))
        loss = F.cross_entropy(network(IMAGES[start : start + 4]), TARGETS[start : start + 4])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        if clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("clip", [None, 0.1])
def test_fit_is_the_written_out_training_loop(tmp_path: Path, clip: float | None) -> None:
    fitted, written = small_network(), small_network()
    written.load_state_dict(fitted.state_dict())
    steps = Steps()
    quick_fit(small_module(fitted), tmp_path, steps, clip=clip)
    losses = _plain_training(written, lr=1e-2, epochs=2, clip=clip)
    assert steps.losses == pytest.approx(losses, rel=1e-5)
    for ours, theirs in zip(fitted.parameters(), written.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("max_steps", "expected"), [(None, 12), (4, 4), (100, 12)])
def test_fit_ends_after_epochs_or_steps(tmp_path: Path, max_steps: int | None, expected: int) -> None:
    steps = Steps()
    quick_fit(small_module(small_network()), tmp_path, steps, max_steps=max_steps)
    assert len(steps.losses) == expected


def test_fit_stops_when_the_loss_is_no_number(tmp_path: Path) -> None:
    class Poisoned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.calls = small_network(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            y: Tensor = self.network(x)
            return y * math.nan if self.calls == 3 else y

    network, steps = Poisoned(), Steps()
    with pytest.raises(DivergedError, match=r"step 3: the loss is nan"):
        quick_fit(small_module(network), tmp_path, steps)
    assert network.calls == 3


def test_fit_of_a_finished_stage_gives_its_weights_and_trains_nothing(tmp_path: Path) -> None:
    first, second, steps = small_network(), small_network(), Steps()
    quick_fit(small_module(first), tmp_path)
    quick_fit(small_module(second), tmp_path, steps)
    assert steps.losses == []
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("options", [{"max_epochs": -1}, {"max_steps": 0}])
def test_length_that_cannot_be_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="epochs must be >= 0 and max_steps >= 1"):
        FitOptions(**options)  # type: ignore[arg-type]
