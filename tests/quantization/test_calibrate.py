"""Calibrate: ranges from data, and no silence when the data has none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from qat.errors import CalibrationError
from qat.quantization.calibrate import calibrate
from qat.quantization.convert import convert
from qat.quantization.engines import lower
from qat.quantization.prepare import prepare
from qat.quantization.prepared import PreparedModel
from tests.quantization.networks import CASES, Inline, observed


def fresh(observer: str = "minmax") -> PreparedModel:
    return prepare(CASES["conv"].model(), (CASES["conv"].inputs(),), observer=observer)


def test_calibrate_counts_the_batches_and_sets_the_switches() -> None:
    prepared = fresh()
    assert calibrate(prepared, (CASES["conv"].inputs(2, seed) for seed in range(3))) == 3
    assert {(m.observing, m.quantizing) for _, m in prepared.fake_quantizes()} == {(False, True)}
    assert {m.quantizing for _, m in prepared.stored_fake_quantizes()} == {True}


def test_calibrate_measures_the_float_activations() -> None:
    """The range of the input is that of the data; behind the layers it is that of the float network."""
    prepared = fresh()
    data = [CASES["conv"].inputs(4, seed) for seed in range(3)]
    calibrate(prepared, data)
    modules = dict(prepared.fake_quantizes())
    everything = torch.cat(data)
    low, high = observed(modules["x"]).range()
    assert (float(low), float(high)) == (float(everything.min()), float(everything.max()))
    model = CASES["conv"].model()
    with torch.no_grad():
        stem = model.get_submodule("stem")(everything)
    assert float(observed(modules["relu"]).range()[1]) == pytest.approx(float(stem.max()), rel=1e-4)
    assert float(observed(modules["relu"]).range()[0]) == 0.0


def test_calibrate_takes_batches_of_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            z: Tensor = self.linear(x) + y
            return z

    prepared = prepare(Two(), (torch.randn(2, 4), torch.randn(2, 3)))
    assert calibrate(prepared, [(torch.randn(5, 4), torch.randn(5, 3))]) == 1


def test_calibrate_leaves_no_gradient() -> None:
    prepared = fresh()
    calibrate(prepared, [CASES["conv"].inputs()])
    assert all(parameter.grad is None for parameter in prepared.parameters())


def test_calibrate_refuses_an_empty_set() -> None:
    with pytest.raises(CalibrationError, match="empty"):
        calibrate(fresh(), [])


@pytest.mark.parametrize("observer", ["minmax", "moving_average", "histogram"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_calibrate_names_the_batch_and_the_tensor_that_is_not_finite(observer: str, bad: float) -> None:
    prepared = fresh(observer)
    data = [CASES["conv"].inputs(2, seed) for seed in range(4)]
    data[2][1, 0, 3, 3] = bad
    with pytest.raises(CalibrationError, match=r"batch 3 gives NaN or infinity, first in tensor 'x'"):
        calibrate(prepared, data)


def test_calibrate_names_the_first_layer_that_overflows() -> None:
    model = Inline(lambda m, x: m.b(torch.relu(m.a(x))), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1)).eval()
    prepared = prepare(model, (torch.randn(2, 3, 4, 4),))
    with torch.no_grad():
        prepared.network.get_parameter("a.weight").fill_(math.inf)
    with pytest.raises(CalibrationError, match="tensor 'relu'"):
        calibrate(prepared, [torch.rand(2, 3, 4, 4) + 1])


@pytest.mark.parametrize("observer", ["minmax", "moving_average", "histogram"])
def test_calibrate_takes_a_constant_zero_input(observer: str) -> None:
    prepared = fresh(observer)
    zeros = torch.zeros(2, *CASES["conv"].shape)
    calibrate(prepared, [zeros, zeros])
    output = lower(convert(prepared), "reference")(zeros)
    assert bool(torch.isfinite(output).all())
    with torch.no_grad():
        torch.testing.assert_close(output, CASES["conv"].model()(zeros), atol=0.05, rtol=0.05)
