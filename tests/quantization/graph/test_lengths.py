"""`len(tensor)` during capture."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from qat.quantization.graph.capture import capture
from qat.quantization.graph.lengths import free_lengths


class Lengthy(nn.Module):
    """Asks for the batch size with `len`, and for the length of a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x.reshape(len(x), -1) / len(self.layers)


def test_batch_stays_free_where_a_model_asks_for_its_length() -> None:
    model = Lengthy().eval()
    captured = capture(model, (torch.randn(2, 6),))
    x = torch.randn(5, 6)
    torch.testing.assert_close(captured.module(x), model(x))


def test_length_is_pythons_own_outside_of_capture() -> None:
    capture(Lengthy().eval(), (torch.randn(2, 6),))
    assert "len" not in vars(sys.modules[__name__])


def test_length_comes_back_when_tracing_fails() -> None:
    context = free_lengths(Lengthy())
    context.__enter__()
    assert "len" in vars(sys.modules[__name__])
    context.__exit__(KeyError, KeyError(), None)
    assert "len" not in vars(sys.modules[__name__])


def test_own_length_of_a_file_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(x: object) -> int:
        return 7

    monkeypatch.setitem(vars(sys.modules[__name__]), "len", own)
    with free_lengths(Lengthy()):
        assert vars(sys.modules[__name__])["len"] is own
    assert vars(sys.modules[__name__])["len"] is own


def test_pytorchs_files_are_left_alone() -> None:
    with free_lengths(Lengthy()):
        assert "len" not in vars(sys.modules[nn.Linear.__module__])
