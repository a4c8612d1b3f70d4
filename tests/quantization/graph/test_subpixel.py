"""Transposed convolutions whose windows do not overlap: the same numbers by a convolution and a shuffle."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import qat
from qat.quantization.graph.capture import capture
from tests.quantization.networks import graph_ops, randomize_

X = torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(0))

TILES: dict[str, dict[str, Any]] = {
    "2 x 2": {"kernel_size": 2, "stride": 2},
    "3 x 3 without bias": {"kernel_size": 3, "stride": 3, "bias": False},
    "4 x 4": {"kernel_size": 4, "stride": 4},
}

OVERLAP: dict[str, dict[str, Any]] = {
    "windows overlap": {"kernel_size": 4, "stride": 2, "padding": 1},
    "gaps": {"kernel_size": 2, "stride": 3},
    "padded": {"kernel_size": 2, "stride": 2, "padding": 1},
    "padded output": {"kernel_size": 2, "stride": 2, "output_padding": 1},
    "not square": {"kernel_size": (2, 3), "stride": (2, 3)},
    "groups": {"kernel_size": 2, "stride": 2, "groups": 2},
    "dilated": {"kernel_size": 2, "stride": 2, "dilation": 2},
    "one pixel": {"kernel_size": 1},
}


def ops_of(options: dict[str, Any], *, norm: bool) -> list[str]:
    torch.manual_seed(0)
    layers = [nn.ConvTranspose2d(6, 4, **options), *([nn.BatchNorm2d(4)] if norm else []), nn.ReLU(), nn.Conv2d(4, 3, 1)]
    model = randomize_(nn.Sequential(*layers)).eval()
    module = capture(model, (X,)).module
    for x in (X, torch.randn(3, 6, 5, 7)):
        with torch.no_grad():
            torch.testing.assert_close(module(x), model(x), rtol=1e-4, atol=1e-5)
    return graph_ops(module)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", TILES)
def test_transposed_convolution_that_tiles_is_a_shuffle(name: str, norm: bool) -> None:
    ops = ops_of(TILES[name], norm=norm)
    assert "aten.pixel_shuffle.default" in ops
    assert not [op for op in ops if "conv_transpose" in op or "batch_norm" in op]


@pytest.mark.parametrize("name", OVERLAP)
def test_other_transposed_convolutions_stay_and_take_their_batch_norm_in(name: str) -> None:
    ops = ops_of(OVERLAP[name], norm=True)
    assert "aten.conv_transpose2d.input" in ops
    assert not [op for op in ops if "batch_norm" in op]


def test_shuffled_convolution_trains_the_weight_of_the_model_and_runs_as_integers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, 2), nn.ReLU(), nn.Conv2d(4, 3, 1)
    )
    prepared = qat.prepare(model, (X,))
    qat.calibrate(prepared, [X])
    torch.autograd.backward(prepared(X).square().mean())
    weight = dict(prepared.named_parameters())["network.2.weight"]
    assert weight.shape == (8, 4, 2, 2)
    assert weight.grad is not None
    assert bool(weight.grad.abs().sum() > 0)
    program = qat.convert(prepared)
    assert len(list(program.layers())) == 3
    assert qat.coverage(prepared, [X]).macs_int8 == 1.0
    simulated, int8 = prepared.eval()(X).detach(), qat.lower(program, "fbgemm")(X)
    assert torch.equal(int8, qat.lower(program, "reference")(X))
    assert float((simulated - int8).abs().max() / simulated.abs().max()) < 0.02
