"""Grouped convolutions that FBGEMM's own kernels overrun: merged, they compute what the reference does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from qat.quantization.engines import lower
from qat.quantization.engines.groups import merge_groups
from qat.quantization.layouts import ChannelsLast, pair_sums
from qat.quantization.program.program import Node, Ref
from tests.quantization.layers import Layer, conv
from tests.quantization.programs import extreme_weight

#: (channels per group, groups) on which the unmerged kernels of AVX2 or AVX-512 gave wrong outputs or a damaged heap.
OVERRUN = [(2, 5), (2, 7), (2, 9), (2, 10), (2, 12), (2, 77), (4, 3), (4, 5), (4, 6), (4, 7), (4, 9), (4, 10), (4, 158)]
SOUND = [(2, 3), (2, 4), (2, 8), (2, 16), (4, 2), (4, 4), (4, 8), (4, 12), (8, 3), (8, 7), (16, 3), (3, 7), (5, 3)]


def grouped(channels: int, groups: int, stride: int = 1) -> Layer:
    return conv(channels * groups, channels, 3, groups=groups, stride=stride)


def node(groups: int, kernel: int = 3) -> Node:
    geometry = ((1, 1), (kernel // 2,) * 2, (1, 1), groups)
    return Node(name="conv", op="int8.conv2d", args=(Ref("x"), None, None, None, *geometry))


@pytest.mark.parametrize("engine", ["fbgemm", "x86"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "groups"), [*OVERRUN, *SOUND])
def test_grouped_convolution_equals_the_reference(channels: int, groups: int, stride: int, engine: str) -> None:
    layer = grouped(channels, groups, stride)
    program, x = layer.program(), layer.inputs(2)
    name = next(program.layers()).name
    exact, got = (lower(program, it).watch(x)[1][name].int() for it in ("reference", engine))
    assert int((exact - got).abs().max()) <= (0 if engine == "fbgemm" else 1)


@pytest.mark.parametrize(("channels", "groups"), OVERRUN)
def test_merged_layer_computes_the_same_sums_with_the_same_neighbours(channels: int, groups: int) -> None:
    weight = extreme_weight((channels * groups, channels, 3, 3), [ChannelsLast()])
    merged_node, merged = merge_groups(node(groups), weight)
    x = torch.randint(0, 256, (1, channels * groups, 5, 5)).double()
    expected = F.conv2d(x, weight.double(), groups=groups)
    assert torch.equal(F.conv2d(x, merged.double(), groups=merged_node.args[7]), expected)
    assert merged_node.args[7] < groups
    assert torch.equal(pair_sums(merged.short(), ChannelsLast()), pair_sums(weight.short(), ChannelsLast()))


@pytest.mark.parametrize(("channels", "groups"), SOUND)
def test_layer_that_is_not_overrun_is_left_alone(channels: int, groups: int) -> None:
    weight = torch.zeros(channels * groups, channels, 3, 3, dtype=torch.int8)
    same, unchanged = merge_groups(node(groups), weight)
    assert same.args[7] == groups
    assert unchanged is weight


def test_other_layers_are_left_alone() -> None:
    for shape, groups in (((20, 4, 5, 5), 5), ((40, 4, 3, 3), 5), ((20, 4, 1, 1), 5), ((20, 20, 3, 3), 1)):
        weight = torch.zeros(shape, dtype=torch.int8)
        assert merge_groups(node(groups, shape[2]), weight)[1] is weight
