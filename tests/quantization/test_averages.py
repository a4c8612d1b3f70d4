"""Averages of a prepared model over training steps: their grids are those of the averaged ranges, and legal."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from timm.utils.model_ema import ModelEmaV2, ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import qat
from qat.quantization.observer import OBSERVERS
from qat.quantization.qparams import QParams, affine_qparams
from tests.quantization.networks import observed

MOVING = get_ema_multi_avg_fn(0.9)  # type: ignore[no-untyped-call]

AVERAGES: dict[str, Callable[[nn.Module], Any]] = {
    "timm, version 2": partial(ModelEmaV2, decay=0.9),
    "timm, version 3": partial(ModelEmaV3, decay=0.9),
    "torch, buffers copied": partial(AveragedModel, multi_avg_fn=MOVING),
    "torch, buffers averaged": partial(AveragedModel, multi_avg_fn=MOVING, use_buffers=True),
}


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("name", AVERAGES)
def test_average_simulates_and_converts_on_the_grids_of_its_ranges(name: str, observer: str) -> None:
    torch.manual_seed(0)
    xs = [torch.randn(8, 3, 8, 8) for _ in range(3)]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    prepared = qat.prepare(model, (xs[0],), observer=observer)
    qat.calibrate(prepared, xs)
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.05)
    average = AVERAGES[name](prepared)
    for step in range(6):
        prepared.set_observing_(step < 5)
        optimizer.zero_grad()
        torch.autograd.backward((prepared(2 * xs[step % 3]) - 3).square().mean())
        optimizer.step()
        (average.update if hasattr(average, "update") else average.update_parameters)(prepared)
    kept = average.module.eval()
    kept.set_observing_(False)
    with torch.no_grad():
        simulated = kept(xs[0])
    for _, module in kept.fake_quantizes():
        scale, zero_point = affine_qparams(*observed(module).range())
        grid = QParams(scale=float(scale), zero_point=int(zero_point))
        assert (
            (float(module.scale), int(module.zero_point))
            == (grid.scale, grid.zero_point)
            == (
                module.qparams().scale,
                module.qparams().zero_point,
            )
        )
    int8 = qat.lower(qat.convert(kept), "reference")(xs[0])
    assert float((simulated - int8).abs().max() / simulated.abs().max()) < 0.02
