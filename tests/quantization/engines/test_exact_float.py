"""Layers that FBGEMM has no fast kernel for: which they are, and that exact float sums give the reference's bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import qat
from qat.quantization.engines.exact_float import exact_layer, is_slow
from qat.quantization.engines.fbgemm import FbgemmKernels
from qat.quantization.program.program import Int8Program, Node

IMAGE, SEQUENCE = (2, 24, 13, 11), (2, 24, 40)


def depthwise(kernel: Any, **options: Any) -> nn.Module:
    return nn.Conv2d(24, 24, kernel, groups=24, **options)


SLOW: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "9 x 9": (depthwise(9, padding=4), IMAGE),
    "2 x 2": (depthwise(2), IMAGE),
    "4 x 4, stride 2": (depthwise(4, stride=2, padding=1), IMAGE),
    "1 x 7": (depthwise((1, 7), padding=(0, 3)), IMAGE),
    "3 x 5": (depthwise((3, 5), padding=(1, 2)), IMAGE),
    "dilated": (depthwise(5, padding=4, dilation=2), IMAGE),
    "without bias": (depthwise(9, padding=4, bias=False), IMAGE),
    "20 channels": (nn.Conv2d(20, 20, 5, padding=2, groups=20), (2, 20, 9, 9)),
    "3 channels per group": (nn.Conv2d(24, 24, 5, padding=2, groups=8), IMAGE),
    "3 channels per group, 3 x 3": (nn.Conv2d(24, 24, 3, padding=1, groups=8), IMAGE),
    "6 channels per group": (nn.Conv2d(24, 24, 5, padding=2, groups=4), IMAGE),
    "16 channels per group": (nn.Conv2d(32, 32, (1, 11), padding=(0, 5), groups=2), (2, 32, 9, 13)),
    "dilated and wide": (depthwise(7, padding=9, dilation=3), IMAGE),
    "a factor per channel": (depthwise(1), IMAGE),
    "one tap, padded": (depthwise(1, padding=1), IMAGE),
    "one tap, strided, without bias": (depthwise(1, stride=2, bias=False), IMAGE),
    "a factor per channel of a signal": (nn.Conv1d(24, 24, 1, groups=24), SEQUENCE),
    "one dimension": (nn.Conv1d(24, 24, 31, padding=15, groups=24), SEQUENCE),
}

FAST: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "3 x 3": (depthwise(3, padding=1), IMAGE),
    "5 x 5, stride 2": (depthwise(5, padding=2, stride=2), IMAGE),
    "7 x 7": (depthwise(7, padding=3), IMAGE),
    "two outputs per channel": (nn.Conv2d(24, 48, 3, padding=1, groups=24), IMAGE),
    "plain": (nn.Conv2d(24, 24, 9, padding=4), IMAGE),
    "32 channels per group": (nn.Conv2d(64, 64, 5, padding=2, groups=2), (2, 64, 9, 9)),
    "6 channels per group, small kernel": (nn.Conv2d(24, 24, 3, padding=1, groups=4), IMAGE),
}


def program_of(layer: nn.Module, shape: tuple[int, ...]) -> Int8Program:
    torch.manual_seed(0)
    prepared = qat.prepare(nn.Sequential(layer, nn.ReLU()).eval(), (torch.randn(shape),))
    qat.calibrate(prepared, [torch.randn(shape)])
    return qat.convert(prepared)


def layer_of(program: Int8Program) -> tuple[Node, list[torch.Tensor | None]]:
    (node,) = program.layers()
    return node, [program.tensors[arg.name] if arg is not None else None for arg in node.args[1:4]]


@pytest.mark.parametrize(("name", "slow"), [*((n, True) for n in SLOW), *((n, False) for n in FAST)])
def test_layers_of_the_general_path_are_known(name: str, slow: bool) -> None:
    node, (weight, *_) = layer_of(program_of(*(SLOW if slow else FAST)[name]))
    assert weight is not None
    assert is_slow(node, weight) is slow


@pytest.mark.parametrize("name", SLOW)
def test_exact_sums_are_those_of_the_reference(name: str) -> None:
    layer, shape = SLOW[name]
    program = program_of(layer, shape)
    fast, reference = (qat.lower(program, engine) for engine in ("fbgemm", "reference"))
    for seed in range(3):
        x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(fast(x), reference(x))
        assert torch.equal(fast(x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x), reference(x))


def test_sums_do_not_turn_into_bfloat16() -> None:
    program, x = program_of(*SLOW["9 x 9"]), torch.randn(IMAGE)
    model = qat.lower(program, "fbgemm")
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(x), expected)


def test_sum_that_may_not_be_exact_is_left_to_fbgemm() -> None:
    node, (weight, scale, bias) = layer_of(program_of(*SLOW["9 x 9"]))
    assert weight is not None
    grid = node.grid
    assert grid is not None
    kernels = FbgemmKernels()
    assert exact_layer(node, [weight, scale, bias], grid, kernels) is not None
    heavy = torch.full((24, 1, 25, 25), 127, dtype=torch.int8)  # 625 taps: 255 * 127 * 625 > 2^24
    assert exact_layer(replace(node), [heavy, scale, bias], grid, kernels) is None
