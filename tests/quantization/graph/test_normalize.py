"""One dialect: whatever the model wrote, the graph holds one spelling of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qat.quantization.graph.capture import capture
from tests.quantization.networks import Inline, graph_ops

CONV = "aten.conv2d.default"


def _written_whole(m: Any, x: torch.Tensor) -> torch.Tensor:
    """What detectors write into: a fresh tensor that nothing of is left."""
    y = m.conv(x)
    out = torch.empty_like(y)
    out[:, :] = y
    return out


def _written_in_part(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = m.conv(x)
    out = torch.empty(y.shape)
    out[:, :2] = y[:, :2]
    out[:, 2:] = 0.0
    return out


#: name -> (function, layers, the ops that are left)
SPELLINGS: dict[str, tuple[Callable[..., Any], dict[str, nn.Module], list[str]]] = {
    "relu6": (lambda m, x: F.relu6(m.conv(x)), {"conv": nn.Conv2d(3, 4, 3)}, [CONV, "aten.clamp.default"]),
    "relu6_": (
        lambda m, x: m.act(m.conv(x)),
        {"conv": nn.Conv2d(3, 4, 3), "act": nn.ReLU6(True)},
        [CONV, "aten.clamp.default"],
    ),
    "hardtanh": (lambda m, x: F.hardtanh(m.conv(x)), {"conv": nn.Conv2d(3, 4, 3)}, [CONV, "aten.clamp.default"]),
    "hardtanh bounds": (
        lambda m, x: F.hardtanh(m.conv(x), 0.0, 0.4),
        {"conv": nn.Conv2d(3, 4, 3)},
        [CONV, "aten.clamp.default"],
    ),
    "relu_": (lambda m, x: torch.relu_(m.conv(x)), {"conv": nn.Conv2d(3, 4, 3)}, [CONV, "aten.relu.default"]),
    "view": (lambda m, x: m.conv(x).view(-1, 4 * 36), {"conv": nn.Conv2d(3, 4, 3)}, [CONV, "aten.reshape.default"]),
    "dropout": (
        lambda m, x: m.drop2(m.drop(m.conv(x))),
        {"conv": nn.Conv2d(3, 4, 3), "drop": nn.Dropout(0.5), "drop2": nn.Dropout2d(0.5)},
        [CONV, "aten.dropout.default", "aten.dropout.default"],
    ),
    "same odd": (lambda m, x: m.conv(x), {"conv": nn.Conv2d(3, 4, (3, 5), padding="same", dilation=(2, 1))}, [CONV]),
    "same even": (lambda m, x: m.conv(x), {"conv": nn.Conv2d(3, 4, 4, padding="same")}, ["aten.conv2d.padding"]),
    "valid": (lambda m, x: m.conv(x), {"conv": nn.Conv2d(3, 4, 3, padding="valid")}, [CONV]),
    "mT": (lambda m, x: m.conv(x).mT, {"conv": nn.Conv2d(3, 4, 3)}, [CONV, "aten.transpose.int"]),
    "alias": (lambda m, x: torch.ops.aten.alias(m.conv(x)), {"conv": nn.Conv2d(3, 4, 3)}, [CONV]),
    "concat": (
        lambda m, x: torch.concat([m.conv(x), m.conv(x)], 1),
        {"conv": nn.Conv2d(3, 4, 3)},
        [CONV, CONV, "aten.cat.default"],
    ),
    "written whole": (_written_whole, {"conv": nn.Conv2d(3, 4, 3)}, [CONV]),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_normalize_leaves_one_spelling_with_the_same_result(name: str) -> None:
    function, layers, expected = SPELLINGS[name]
    model = Inline(function, **layers).eval()
    captured = capture(model, (torch.randn(2, 3, 8, 8),))
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(captured.module(x), model(x), rtol=1e-6, atol=1e-6)
    assert graph_ops(captured.module, without=["aten.sym_size.int"]) == expected


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_normalize_writes_conv1d_padding_as_numbers(padding: str) -> None:
    model = Inline(lambda m, x: m.conv(x), conv=nn.Conv1d(3, 4, 5, padding=padding, dilation=3)).eval()
    captured = capture(model, (torch.randn(2, 3, 20),))
    x = torch.randn(3, 3, 20)
    assert graph_ops(captured.module) == ["aten.conv1d.default"]
    torch.testing.assert_close(captured.module(x), model(x))


def test_normalize_folds_the_batch_norm_that_functionalization_rewrites() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.norm(m.conv(x))
        y[:, 0] += 1
        result: torch.Tensor = y
        return result

    model = Inline(function, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)).eval()
    captured = capture(model, (torch.randn(2, 3, 8, 8),))
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(captured.module(x), model(x))
    assert not [op for op in graph_ops(captured.module) if "batch_norm" in op]


def test_normalize_starts_a_tensor_that_is_written_in_parts_with_zeros() -> None:
    """An uninitialised one would be no function of its inputs, and `copy` into it no op of a program."""
    model = Inline(_written_in_part, conv=nn.Conv2d(3, 4, 3)).eval()
    module = capture(model, (torch.randn(2, 3, 8, 8),)).module
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(module(x), model(x))
    ops = graph_ops(module)
    assert "aten.zeros.default" in ops
    assert not {"aten.empty.memory_format", "aten.copy.default"} & set(ops)
