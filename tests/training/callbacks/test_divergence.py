from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from qat.errors import ConfigError, DivergedError
from qat.training.callbacks.divergence import DivergenceGuard


def _see(guard: DivergenceGuard, *losses: float) -> None:
    """Show the guard what Lightning would."""
    for step, loss in enumerate(losses):
        trainer = cast(Any, SimpleNamespace(global_step=step + 1))
        guard.on_train_batch_end(trainer, cast(Any, None), {"loss": torch.tensor(loss)}, None, step)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("before", [0, 3, 30])
def test_loss_that_is_no_number_stops_at_once_with_advice(loss: float, before: int) -> None:
    with pytest.raises(DivergedError, match=rf"step {before + 1}: the loss is {loss}.*divide lr by") as caught:
        _see(DivergenceGuard(), *[1.0] * before, loss)
    assert caught.value.exit_code == 3
    assert "gradient_clip_val" in str(caught.value)


@pytest.mark.parametrize(("loss", "stops"), [(39.9, False), (40.1, True)])
def test_exploding_loss_is_a_multiple_of_the_first_ones(loss: float, stops: bool) -> None:
    guard = DivergenceGuard(factor=20.0, settle=4)
    losses = [1.0, 2.0, 3.0, 2.0, loss]
    if stops:
        with pytest.raises(DivergedError, match=r"the loss rose to 40.1 from 2"):
            _see(guard, *losses)
    else:
        _see(guard, *losses)


def test_training_that_goes_down_and_wobbles_is_left_alone() -> None:
    _see(DivergenceGuard(), *[2.3 * math.exp(-step / 50) * (1.5 + math.sin(step)) for step in range(300)])


def test_loss_that_starts_at_nothing_does_not_count_as_exploding() -> None:
    _see(DivergenceGuard(), *[1e-9] * 10, *[1e-3] * 10)
    _see(DivergenceGuard(), *[0.004] * 10, 1.6, *[0.004] * 10)


def test_one_hard_batch_among_many_is_no_explosion() -> None:
    _see(DivergenceGuard(settle=4), *[1.0] * 9, 60.0, 1.0)
    with pytest.raises(DivergedError):
        _see(DivergenceGuard(settle=4), *[1.0] * 9, 60.0, 60.0)


def test_step_without_a_loss_is_left_alone() -> None:
    DivergenceGuard().on_train_batch_end(cast(Any, None), cast(Any, None), None, None, 0)


def test_resumed_guard_measures_against_the_first_losses_of_the_run() -> None:
    first, second = DivergenceGuard(settle=4), DivergenceGuard(settle=4)
    _see(first, 1.0, 1.0, 1.0, 1.0)
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    with pytest.raises(DivergedError, match="rose to 50 from 1"):
        _see(second, 50.0)


def test_factor_that_every_loss_exceeds_is_refused() -> None:
    with pytest.raises(ConfigError, match="above 1"):
        DivergenceGuard(factor=1.0)
