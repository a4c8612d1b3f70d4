"""A batch norm behind concatenated layers is folded into each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qat.quantization.graph.capture import capture
from qat.quantization.prepare import prepare
from tests.quantization.graph.same import assert_same
from tests.quantization.networks import Inline, graph_ops


def network(forward: Callable[[Any, Tensor], Tensor], **norm: Any) -> Inline:
    torch.manual_seed(0)
    layers = {"a": nn.Conv2d(3, 4, 3, padding=1, bias=False), "b": nn.Conv2d(3, 6, 5, padding=2)}
    model = Inline(forward, **layers, norm=nn.BatchNorm2d(10, **norm)).train()
    for _ in range(3):
        model(torch.randn(8, 3, 8, 8) * 2 + 1)
    return model.eval()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dim", [1, -3])
def test_every_layer_takes_its_part(affine: bool, dim: int) -> None:
    model = network(lambda m, x: m.norm(torch.cat([m.a(x), m.b(x)], dim)).relu(), affine=affine)
    x = torch.randn(2, 3, 8, 8)
    captured = capture(model, x)
    assert graph_ops(captured.module) == ["aten.conv2d.default"] * 2 + ["aten.cat.default", "aten.relu.default"]
    assert_same(captured.module(x), model(x))
    assert {name for name, _ in captured.module.named_parameters()} == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert not list(captured.module.buffers())


def test_frozen_parts_stay_frozen_in_the_prepared_model() -> None:
    model = network(lambda m, x: m.norm(torch.cat([m.a(x), m.b(x)], 1)))
    model.norm.requires_grad_(False)
    model.a.requires_grad_(False)
    trains = {
        name.removeprefix("network."): p.requires_grad for name, p in prepare(model, torch.randn(2, 3, 8, 8)).named_parameters()
    }
    assert trains == {"a.weight": False, "a.bias": False, "b.weight": True, "b.bias": True}


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.norm(torch.cat([m.a(x), m.b(x).relu()], 1)),
        lambda m, x: m.norm(torch.cat([y := m.a(x), m.b(x)], 1)) + torch.cat([y, y, y[:, :2]], 1),
    ],
    ids=["an activation between", "a layer that something else reads"],
)
def test_what_cannot_be_folded_stays_one_norm(forward: Callable[[Any, Tensor], Tensor]) -> None:
    model = network(forward)
    x = torch.randn(2, 3, 8, 8)
    captured = capture(model, x)
    assert graph_ops(captured.module).count("aten.batch_norm.default") == 1
    assert_same(captured.module(x), model(x))
