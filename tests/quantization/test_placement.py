"""Placement: which tensors are on a grid, for the patterns that networks are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.quantization.graph.capture import capture
from qat.quantization.graph.nodes import constants
from qat.quantization.kernel_table import Role
from qat.quantization.placement import Placement, inputs_on_grid, place
from qat.quantization.targets import TARGETS
from tests.quantization.networks import CASES, Inline, captured


def placed(
    function: Callable[..., Any], *, target: str = "x86", keep_float: Sequence[str] = (), **layers: nn.Module
) -> Placement:
    """Placement of a function of an image of shape (N, 8, 6, 6)."""
    graph = capture(Inline(function, **layers).eval(), (torch.randn(2, 8, 6, 6),)).module.graph
    return place(graph, TARGETS[target], keep_float=keep_float)


def conv(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(8, 8, 3, padding=1, **options)


def test_placement_of_conv_relu_conv_has_three_grids() -> None:
    placement = placed(lambda m, x: m.b(F.relu(m.a(x))), a=conv(), b=conv())
    assert placement.grids == {"x", "relu", "conv2d_1"}
    assert placement.integers == {"conv2d", "relu", "conv2d_1"}
    assert placement.kernels.keys() == {"conv2d", "conv2d_1"}
    assert placement.absorbed == {"relu": "conv2d"}
    assert placement.reasons == {}


@pytest.mark.parametrize(
    "activation",
    [F.relu, F.relu6, lambda x: F.hardtanh(x, 0.0, 1.0), lambda x: x.clamp(min=0), lambda x: x.clamp(0, 3)],
    ids=["relu", "relu6", "hardtanh01", "clamp_min", "clamp"],
)
def test_placement_absorbs_what_the_clamp_of_a_grid_can_be(activation: Callable[[Tensor], Tensor]) -> None:
    placement = placed(lambda m, x: m.b(activation(m.a(x))), a=conv(), b=conv())
    assert list(placement.absorbed.values()) == ["conv2d"]
    assert len(placement.grids) == 3


@pytest.mark.parametrize("low", [-1.0, 0.5])
def test_placement_does_not_absorb_a_clamp_that_starts_elsewhere(low: float) -> None:
    placement = placed(lambda m, x: m.b(m.a(x).clamp(low, 3.0)), a=conv(), b=conv())
    assert placement.absorbed == {}
    assert placement.kernels["clamp"].program_op == "int8.clamp"


def test_placement_does_not_absorb_a_relu_when_the_layer_is_read_before_it() -> None:
    def function(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        z: Tensor = m.b(F.relu(y)) + m.c(y)
        return z

    placement = placed(function, a=conv(), b=conv(), c=conv())
    assert placement.absorbed == {}
    assert {"conv2d", "relu"} <= placement.integers
    assert "relu" not in placement.grids  # a relu keeps its input's grid


def test_placement_of_a_residual_addition() -> None:
    placement = placed(lambda m, x: m.c(F.relu(m.b(F.relu(m.a(x))) + x)), a=conv(), b=conv(), c=conv())
    # x comes in as float: it is quantized for the convolution, but the addition has a float operand
    assert "add" not in placement.integers
    stem = placed(lambda m, x: m.d(F.relu(m.c(F.relu(m.b(y := m.a(x)))) + y)), a=conv(), b=conv(), c=conv(), d=conv())
    assert stem.kernels["add"].program_op == "int8.add"
    assert stem.grids == {"x", "conv2d", "relu", "conv2d_2", "relu_1", "conv2d_3"}
    assert stem.absorbed == {"relu": "conv2d_1", "relu_1": "add"}


def test_placement_of_a_squeeze_excite_block_is_all_integer() -> None:
    def function(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        gate = F.hardsigmoid(m.up(F.relu(m.down(F.adaptive_avg_pool2d(y, 1)))))
        z: Tensor = m.b(y * gate)
        return z

    placement = placed(function, a=conv(), down=nn.Conv2d(8, 4, 1), up=nn.Conv2d(4, 8, 1), b=conv())
    assert placement.reasons == {}
    ops = {kernel.program_op for kernel in placement.kernels.values()}
    assert ops == {"int8.conv2d", "int8.adaptive_avg_pool2d", "int8.hardsigmoid", "int8.mul"}
    assert {"adaptive_avg_pool2d", "mul"} <= placement.grids
    assert "hardsigmoid" not in placement.grids | placement.integers  # chained into the product


def test_placement_passes_the_grid_through_shape_ops() -> None:
    def function(m: Any, x: Tensor) -> Tensor:
        y = F.pad(F.max_pool2d(m.a(x), 2), (1, 0, 1, 0)).flatten(2).transpose(1, 2)
        z: Tensor = m.fc(y)
        return z

    placement = placed(function, a=conv(), fc=nn.Linear(8, 3))
    assert placement.grids == {"x", "conv2d"}
    assert {"max_pool2d", "pad", "flatten", "transpose"} <= placement.integers


def test_placement_of_chunks_and_concatenation() -> None:
    def function(m: Any, x: Tensor) -> Tensor:
        a, b = m.a(x).chunk(2, 1)
        y: Tensor = m.c(torch.cat([b, m.b(a)], 1))
        return y

    placement = placed(function, a=conv(), b=nn.Conv2d(4, 4, 1), c=conv())
    assert {"chunk", "getitem", "getitem_1"} <= placement.integers
    assert placement.grids == {"x", "conv2d", "conv2d_1", "cat", "conv2d_2"}


def test_placement_leaves_a_following_op_float_when_only_float_ops_read_it() -> None:
    placement = placed(lambda m, x: F.softmax(m.a(x) + m.b(x), 1), a=conv(), b=conv())
    assert "add" not in placement.kernels
    assert "float" in placement.reasons["add"]
    assert "softmax" in placement.reasons


@pytest.mark.parametrize("target", TARGETS)
def test_placement_of_a_vit_block(target: str) -> None:
    """Linears are integer; the residual stream, layer norm and GELU stay float. QNNPACK's linears return a grid."""
    graph = captured("attention").module.graph
    placement = place(graph, TARGETS[target])
    linears = {n.name for n in graph.nodes if n.target is torch.ops.aten.linear.default}
    assert len(linears) == 5
    assert linears <= placement.kernels.keys()
    if target in ("arm", "any"):
        assert linears <= placement.integers & placement.grids
    else:
        assert not linears & placement.integers
    stream = {n.name for n in graph.nodes if n.target is torch.ops.aten.add.Tensor}
    assert len(stream) == 3
    assert not stream & placement.integers
    assert not stream & placement.kernels.keys()
    reasons = {str(n.target): placement.reasons.get(n.name) for n in graph.nodes}
    assert "no INT8 kernel" in str(reasons["aten.gelu.default"])
    assert "no INT8 kernel" in str(reasons["aten.layer_norm.default"])


def test_placement_gives_a_linear_a_grid_only_between_layers() -> None:
    """FBGEMM's linear may return float or a grid: a grid where nothing but integer layers reads it."""
    placement = placed(lambda m, x: m.c(F.relu(m.b(F.relu(m.a(x))))), a=nn.Linear(6, 7), b=nn.Linear(7, 5), c=nn.Linear(5, 4))
    assert placement.integers == {"linear", "relu", "linear_1", "relu_1"}
    assert placement.grids == {"x", "relu", "relu_1"}
    mixed = placed(lambda m, x: m.b(y := m.a(x)) + F.gelu(y)[..., :5], a=nn.Linear(6, 7), b=nn.Linear(7, 5))
    assert "linear" in mixed.kernels
    assert "linear" not in mixed.integers
    assert "linear" in mixed.grids  # rounded for the second layer alone


def test_placement_keeps_a_layer_whose_weight_an_input_computes_float() -> None:
    placement = placed(lambda m, x: m.b(F.conv2d(x, m.a.weight * x.mean())), a=conv(), b=conv())
    assert "conv2d_1" in placement.kernels
    assert placement.reasons["conv2d"] == "its weight is computed from an input, not stored"


def test_placement_keeps_a_weighted_sum_float() -> None:
    """D-FINE takes the mean of a distribution over distances as a linear layer with a vector for its weight."""
    placement = placed(lambda m, x: F.linear(m.a(x), m.a.bias[:6]), a=conv())
    assert placement.reasons["linear"] == "its weight is a vector"


def test_placement_takes_a_layer_whose_weight_is_made_of_parameters() -> None:
    placement = placed(lambda m, x: m.b(F.conv2d(x, m.a.weight * 2, m.a.bias + 1)), a=conv(), b=conv())
    assert {"conv2d", "conv2d_1"} <= placement.kernels.keys()


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x + 1.0, "number"),
        (lambda x: torch.add(x, x, alpha=2), "alpha"),
        (lambda x: F.pad(x, (1, 1), value=3.0), "zero padding"),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), "zero padding"),
        (lambda x: x.mean(1, keepdim=True).expand(-1, 8, -1, -1), "mean over height and width"),
        (lambda x: F.avg_pool2d(x, 2, divisor_override=3), "divisor"),
        (lambda x: F.gelu(x), "no INT8 kernel"),
    ],
    ids=["add number", "alpha", "pad value", "reflect", "channel mean", "divisor", "gelu"],
)
def test_placement_says_why_an_op_stays_float(function: Callable[[Tensor], Tensor], words: str) -> None:
    placement = placed(lambda m, x: m.b(function(m.a(x))), a=conv(), b=conv())
    assert any(words in reason for reason in placement.reasons.values()), placement.reasons


# --- contracts that hold for every network --------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_placement_feeds_every_kernel_from_a_grid(name: str, target: str) -> None:
    graph = captured(name).module.graph
    placement = place(graph, TARGETS[target])
    nodes = {node.name: node for node in graph.nodes}
    assert placement.kernels
    for kernel_name, kernel in placement.kernels.items():
        for source in inputs_on_grid(nodes[kernel_name], kernel):
            chained = kernel.chains and source.name in placement.kernels and placement.kernels[source.name].chains
            assert source.name in placement.integers | placement.grids or chained
    assert placement.absorbed.keys().isdisjoint(placement.kernels)
    assert placement.grids.isdisjoint(placement.absorbed.values())  # one grid per tensor
    tensors = {n.name for n in graph.nodes if n.op == "call_function"} - constants(graph)
    decided = placement.kernels.keys() | placement.absorbed.keys() | placement.reasons.keys()
    shapes = {kernel.op for kernel in TARGETS[target].kernels if kernel.role is Role.PASS} | {"aten.sym_size.int"}
    assert {str(nodes[n].target) for n in tensors - decided} <= shapes


def test_constants_depend_on_parameters_alone() -> None:
    graph = captured("attention").module.graph
    names = {n.target for n in graph.nodes if n.name in constants(graph)}
    assert {"position", "token", "qkv.weight"} <= names
    assert torch.ops.aten.add.Tensor not in names
