"""In-place writes: the graph has none, and computes what they left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.quantization.graph.capture import capture
from tests.quantization.graph.same import assert_same
from tests.quantization.networks import Inline, graph_ops


def slice_assignment(self: Any, x: Tensor) -> Any:
    y = self.conv(x)
    y[:, 1:3] = 0.5
    return F.relu(y)


def add_to_a_view(self: Any, x: Tensor) -> Any:
    y = self.conv(x)
    y[:, 0] += 1
    return y * 2


def write_through_a_view(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = self.conv(x)
    flat = y.view(y.shape[0], -1)
    flat.mul_(3.0)
    return y, flat


def write_into_the_base(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = self.conv(x)
    first = y[:, 0]
    y.add_(1.0)
    return first, y


def write_into_a_chunk(self: Any, x: Tensor) -> Any:
    y = self.conv(x)
    a, b = y.chunk(2, 1)
    a.relu_()
    return y + torch.cat([b, a], 1)


def chain(self: Any, x: Tensor) -> Any:
    y = self.conv(x).relu_()
    z = y + 1
    y.mul_(2)
    return F.hardtanh_(z, -0.5, 1.2) + y.clamp_(0, 3)


def write_after_a_read(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = self.conv(x)
    before = y * 1.0
    y.sigmoid_()
    return before, y


def masked_write(self: Any, x: Tensor) -> Any:
    y = self.conv(x).clone()
    y.masked_fill_(y < 0, -1.0)
    return y


IN_PLACE = [
    slice_assignment,
    add_to_a_view,
    write_through_a_view,
    write_into_the_base,
    write_into_a_chunk,
    chain,
    write_after_a_read,
    masked_write,
]


@pytest.mark.parametrize("function", IN_PLACE, ids=[f.__name__ for f in IN_PLACE])
def test_capture_of_in_place_ops_equals_the_model(function: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = Inline(function, conv=nn.Conv2d(3, 4, 3)).eval()
    captured = capture(model, (torch.randn(2, 3, 6, 6),))
    for batch in (1, 3):
        x = torch.randn(batch, 3, 6, 6)
        with torch.no_grad():  # autograd forbids some of these writes
            assert_same(captured.module(x.clone()), model(x.clone()))
    assert not [op for op in graph_ops(captured.module) if op.startswith("aten.") and op.split(".")[1].endswith("_")]
