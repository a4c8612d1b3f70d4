"""Outlier channels: moved where that is exact and pays, said where it is not possible."""

from __future__ import annotations

import copy
import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qat.quantization.analysis.parity import simulation_parity
from qat.quantization.calibrate import calibrate
from qat.quantization.convert import convert
from qat.quantization.engines import lower
from qat.quantization.prepare import prepare
from qat.quantization.prepared import PreparedModel
from qat.quantization.ptq.smoothing import smooth_

WIDTH = 64


class Block(nn.Module):
    """A pre-norm block, as in ViT, CLIP, GPT and Whisper."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.norm, self.up, self.down = norm(WIDTH), nn.Linear(WIDTH, 128), nn.Linear(128, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return y


class PostNorm(nn.Module):
    """A residual reads the norm too, as in BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        y: Tensor = h + self.layer(h)
        return y


X = torch.randn(8, 12, WIDTH, generator=torch.Generator().manual_seed(0))


def network(outlier: float, norm: type[nn.Module] = nn.LayerNorm) -> nn.Module:
    """The same function whatever `outlier` is."""
    torch.manual_seed(0)
    model = nn.Sequential(Block(norm), Block(norm), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10))
    with torch.no_grad():
        for block in model[:2]:
            assert isinstance(block, Block)
            block.norm.weight[:3] *= outlier  # type: ignore[index, operator]
            if norm is nn.LayerNorm:
                block.norm.bias[:3] = outlier / 10  # type: ignore[operator]
            block.up.weight[:, :3] /= outlier
    return model.eval()


def decibels(signal: Tensor, other: Tensor) -> float:
    return 10 * math.log10(float((signal.square().sum() / (signal - other).square().sum()).detach()))


def deployed(model: nn.Module, **options: Any) -> tuple[PreparedModel, float]:
    prepared = prepare(model, X)
    calibrate(prepared, [X], **options)
    return prepared, decibels(model(X), lower(convert(prepared), "fbgemm")(X))


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_outlier_channels_cost_nothing(norm: type[nn.Module]) -> None:
    _, plain = deployed(network(1.0, norm))
    _, smoothed = deployed(network(40.0, norm))
    _, rough = deployed(network(40.0, norm), smoothing=False)
    assert rough < plain - 10, "the case is none"
    assert smoothed > plain - 2


def test_the_float_network_stays_the_same_bit_for_bit() -> None:
    prepared = prepare(network(40.0), X)
    prepared.set_quantizing_(False)
    prepared.set_observing_(False)
    before = prepared(X)
    weights = copy.deepcopy(prepared.state_dict())
    assert smooth_(prepared, [X]) == []
    changed = {name for name, tensor in prepared.state_dict().items() if not torch.equal(tensor, weights[name])}
    assert changed == {f"network.{i}.{name}" for i in (0, 1) for name in ("norm.weight", "norm.bias", "up.weight")}, changed
    assert torch.equal(prepared(X), before)


def test_networks_without_outliers_are_left_alone() -> None:
    prepared = prepare(network(1.0), X)
    weights = copy.deepcopy(prepared.state_dict())
    assert smooth_(prepared, [X]) == []
    assert all(torch.equal(tensor, weights[name]) for name, tensor in prepared.state_dict().items())


def test_what_a_residual_reads_is_left_alone_and_said(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(PostNorm(), nn.Linear(WIDTH, 4)).eval()
    with torch.no_grad():
        model[0].norm.weight[5] *= 100  # type: ignore[index, operator, union-attr]
        model[0].layer.weight[:, 5] /= 100  # type: ignore[index, operator, union-attr]
    prepared = prepare(model, X)
    weights = copy.deepcopy(prepared.state_dict())
    (found,) = [outliers for outliers in smooth_(prepared, [X]) if outliers.tensor == "layer_norm"]
    assert found.layers == ("0.layer",)
    assert found.ratio > 50
    assert all(torch.equal(tensor, weights[name]) for name, tensor in prepared.state_dict().items())
    with caplog.at_level(logging.WARNING, "qat"):
        calibrate(prepared, [X])
    assert "outlier channels in front of linear layers: layer_norm (" in caplog.text
    assert "'0.layer'" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "qat"):
        calibrate(prepare(model, X, keep_float=["0.layer", "1"][:1]), [X])
    assert "layer_norm" not in caplog.text


def test_a_norm_with_a_shift_alone_is_left_alone() -> None:
    """Dividing the shift would not divide what it is added to."""

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift, self.layer = nn.Parameter(torch.randn(WIDTH)), nn.Linear(WIDTH, WIDTH)
            self.shift.data[0] = 100.0

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(nn.functional.layer_norm(x, (WIDTH,), None, self.shift))
            return y

    model = Shifted().eval()
    prepared = prepare(model, X)
    calibrate(prepared, [X], bias_correction=False)
    prepared.set_quantizing_(False)
    torch.testing.assert_close(prepared(X), model(X))


def test_the_layer_table_says_what_int8_costs_against_float() -> None:
    """The decibels against float fall where the outliers are, those against the simulation do not."""
    prepared, _ = deployed(network(40.0), smoothing=False)
    rows = {row.name: row for row in simulation_parity(prepared, convert(prepared), [X])}
    smooth, _ = deployed(network(40.0))
    others = {row.name: row for row in simulation_parity(smooth, convert(smooth), [X])}
    rough, fine = rows["gelu_quantized"].float_db, others["gelu_quantized"].float_db
    assert rough is not None
    assert fine is not None
    assert rough < 30 < fine
    assert rows["gelu_quantized"].sqnr_db > 40
