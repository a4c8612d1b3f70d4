"""Bias correction takes back the mean shift of rounded weights, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qat
from qat.quantization.prepared import PreparedModel


def cancelling() -> nn.Module:
    """A depthwise layer whose large weights cancel on inputs that hardly vary, behind a pointwise one."""
    first, depthwise = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8)
    first.bias = nn.Parameter(torch.full((8,), 7.0))  # every input of the depthwise layer is close to 6
    with torch.no_grad():
        depthwise.weight.copy_(50 * torch.randn(8, 1, 3, 3))
        depthwise.weight.sub_(depthwise.weight.mean((2, 3), keepdim=True))
    return nn.Sequential(first, nn.ReLU6(), depthwise, nn.Conv2d(8, 4, 1))


def shift(prepared: PreparedModel, model: nn.Module, x: Tensor) -> float:
    """Largest per-channel difference of the mean output, with rounded weights and float activations."""
    for _, module in prepared.fake_quantizes():
        module.quantizing = False
    with torch.no_grad():
        return float((prepared(x) - model(x)).mean((0, 2, 3)).abs().max())


def test_bias_correction_removes_the_mean_shift_of_rounded_weights() -> None:
    model, x = cancelling(), torch.rand(16, 3, 12, 12)
    shifts = []
    for correct in (False, True):
        prepared = qat.prepare(model, (x,))
        qat.calibrate(prepared, [x], bias_correction=correct)
        shifts.append(shift(prepared, model, x))
    assert shifts[1] < 0.02 * shifts[0]


def test_bias_correction_moves_biases_by_the_mean_over_batches() -> None:
    model, batches = nn.Sequential(nn.Conv2d(3, 5, 3)), [torch.randn(4, 3, 6, 6) for _ in range(3)]
    layer = model[0]
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    prepared = qat.prepare(model, (batches[0],))
    qat.calibrate(prepared, batches)
    integers, scale = next(prepared.stored_fake_quantizes())[1].quantize(layer.weight)
    error = layer.weight - integers * scale.reshape(-1, 1, 1, 1)
    expected = layer.bias + torch.stack([nn.functional.conv2d(x, error).mean((0, 2, 3)) for x in batches]).mean(0)
    state = dict(prepared.network.named_parameters())
    torch.testing.assert_close(state["0.bias"], expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(state["0.weight"], layer.weight)


@pytest.mark.parametrize("bias", [True, False])
def test_bias_correction_handles_linear_layers_with_and_without_bias(bias: bool) -> None:
    model, x = nn.Sequential(nn.Linear(6, 7, bias=bias), nn.ReLU(), nn.Linear(7, 3, bias=bias)), torch.randn(9, 4, 6)
    prepared = qat.prepare(model, (x,))
    qat.calibrate(prepared, [x])
    assert qat.lower(qat.convert(prepared), "reference")(x).shape == (9, 4, 3)
