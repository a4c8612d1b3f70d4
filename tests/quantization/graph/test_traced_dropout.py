"""What drops in training is traced, or said to be lost."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from qat.quantization.graph.traced_dropout import droppers
from qat.quantization.prepare import prepare
from tests.quantization.networks import Inline


def test_what_is_not_taken_over_is_said(caplog: pytest.LogCaptureFixture) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
    assert droppers(layer) == {"self_attn": 0.1, "dropout": 0.1, "dropout1": 0.1, "dropout2": 0.1}
    with caplog.at_level(logging.WARNING, "qat"):
        prepare(Inline(lambda m, x: m.layer(x), layer=layer).eval(), torch.randn(2, 5, 16))
    assert "without these dropouts of the model: layer.self_attn (p=0.1). They" in caplog.text
    recurrent, block = nn.LSTM(8, 8, 2, dropout=0.3, batch_first=True), StochasticDepth(0.4, "batch")
    model = Inline(lambda m, x: m.head(m.block(m.recurrent(x)[0])), recurrent=recurrent, block=block, head=nn.Linear(8, 2))
    prepare(model.eval(), torch.randn(2, 5, 8))
    assert "recurrent (p=0.3), block (p=0.4)" in caplog.text
    weights = Inline(lambda m, x: F.linear(x, m.drop(m.layer.weight)), layer=nn.Linear(8, 8), drop=nn.Dropout(0.2))
    prepare(weights.eval(), torch.randn(2, 8))
    assert "drop (p=0.2)" in caplog.text


def test_what_is_switched_off_is_off_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "qat"):
        prepared = prepare(
            Inline(lambda m, x: m.layer(m.drop(x)), layer=nn.Linear(8, 8), drop=nn.Dropout()), torch.randn(2, 8), dropout=False
        )
    assert not caplog.records
    assert not [module for module in prepared.modules() if "Dropout" in type(module).__name__]


def test_classes_that_are_named_like_stochastic_depth_and_are_something_else_are_left_alone() -> None:
    class WithStochasticDepth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.p = nn.Linear(8, 8), 0.5

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = x + self.layer(x)
            return y

    model, x = nn.Sequential(WithStochasticDepth()).eval(), torch.randn(4, 8)
    prepared = prepare(model, x)
    prepared.set_quantizing_(False)
    torch.testing.assert_close(prepared(x), model(x), rtol=1e-4, atol=1e-5)
