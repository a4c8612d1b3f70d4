"""Regions of no_grad and disabled autocast disappear from the captured graph and change nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qat.errors import CaptureError
from qat.quantization.graph.capture import capture


class Regions(nn.Module):
    """A layer inside a disabled autocast, scaled by something computed without gradient."""

    def __init__(self, autocast: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.autocast = autocast

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = x.abs().amax() + 1.0
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
            y: Tensor = self.layer(x.float()) / scale
        return y + 0


def test_inline_regions_are_captured_and_equal_the_model() -> None:
    model, x = Regions(autocast=False), torch.randn(3, 4)
    module = capture(model, (x,)).module
    torch.testing.assert_close(module(x), model(x))
    assert all("wrap_with" not in str(node.target) for node in module.graph.nodes)
    assert all(str(node.target) not in ("aten.to.dtype",) for node in module.graph.nodes)


def test_inline_refuses_an_enabled_autocast() -> None:
    with pytest.raises(CaptureError, match="autocast"):
        capture(Regions(autocast=True), (torch.randn(3, 4),))
