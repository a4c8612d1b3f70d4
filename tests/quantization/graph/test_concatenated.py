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


def test_one_norm_behind_two_concatenations_is_split_for_each() -> None:
    torch.manual_seed(0)
    layers = {name: nn.Conv2d(3, channels, 1) for name, channels in zip("abcd", (8, 8, 4, 12), strict=True)}
    norm = nn.BatchNorm2d(16)
    norm.running_mean, norm.running_var = torch.randn(16), torch.rand(16) + 0.5
    model = Inline(
        lambda m, x: (m.norm(torch.cat([m.a(x), m.b(x)], 1)), m.norm(torch.cat([m.c(x), m.d(x)], 1))), norm=norm, **layers
    ).eval()
    x = torch.randn(2, 3, 4, 4)
    captured = capture(model, x)
    assert "aten.batch_norm.default" not in graph_ops(captured.module)
    assert_same(captured.module(x), model(x))


def test_a_norm_of_the_batch_is_not_split_or_folded() -> None:
    norm = nn.BatchNorm2d(10, track_running_stats=False)
    layers = {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 6, 1)}
    model = Inline(lambda m, x: m.norm(torch.cat([m.a(x), m.b(x)], 1)), norm=norm, **layers).eval()
    assert graph_ops(capture(model, torch.randn(4, 3, 8, 8)).module).count("aten.batch_norm.default") == 1
    single = nn.Sequential(nn.Conv2d(3, 10, 1), norm).eval()
    assert graph_ops(capture(single, torch.randn(4, 3, 8, 8)).module)[-1] == "aten.batch_norm.default"


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
