"""What rounding and bounds cost a weight, against the definition."""

from __future__ import annotations

import math

import pytest
import torch

from qat.quantization.analysis.weight_error import target_costs, weight_sqnr
from qat.quantization.layouts import ChannelsLast
from qat.quantization.targets import get_target
from tests.quantization.networks import calibrated


def test_weight_sqnr_matches_the_definition() -> None:
    weight = torch.tensor([[127.0, 0.4, -3.3], [2.0, 1.0, 0.3]])
    expected = []
    for row, scale in ((weight[0].tolist(), 1.0), (weight[1].tolist(), 2.0 / 127)):
        noise = sum((w - round(w / scale) * scale) ** 2 for w in row)
        expected.append(10 * math.log10(sum(w * w for w in row) / noise))
    assert weight_sqnr(weight) == pytest.approx(sum(expected) / 2, abs=0.02)


def test_weight_sqnr_falls_with_the_bound_and_leaves_zero_channels_out() -> None:
    weight = torch.randn(16, 32, generator=torch.Generator().manual_seed(0)).abs()
    assert weight_sqnr(weight, [ChannelsLast()]) < weight_sqnr(weight) - 1
    assert weight_sqnr(torch.cat([weight, torch.zeros(4, 32)])) == pytest.approx(weight_sqnr(weight))
    assert weight_sqnr(torch.zeros(2, 3)) == math.inf


def test_target_costs_name_the_layers_that_change() -> None:
    prepared = calibrated("squeeze_excite", "x86_vnni")
    costs = target_costs(prepared, get_target("x86_vnni"), get_target("x86"))
    assert costs
    assert all(cost.after < cost.before for cost in costs)
    assert "depthwise.0" not in {cost.layer for cost in costs}  # bounded for both
    assert target_costs(prepared, get_target("x86"), get_target("x86")) == []
