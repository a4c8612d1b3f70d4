"""The reference engine against integers in int64: it defines what a program means."""

from __future__ import annotations

import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qat.quantization.engines import lower
from qat.quantization.engines.lowering import aten_op
from qat.quantization.engines.reference import fused_multiply_add, quantize, requantize
from qat.quantization.program.ops import INT8_OPS, LAYER_OPS, TABLE_OPS
from qat.quantization.program.program import Int8Program, Node, Ref, leaves, map_leaves
from tests.quantization.layers import LAYERS, Layer
from tests.quantization.op_programs import OPS, op_inputs, op_program
from tests.quantization.programs import INPUT_GRID, grid, layer_program


def accumulator(layer: Layer, program: Int8Program, node: Node, integers: Tensor) -> Tensor:
    """sum (q_x - z_x) q_w, in int64 arithmetic over unfolded patches."""
    weight = program.tensors[node.args[1].name].long()
    source = program.nodes[0].grid
    assert source is not None
    x = integers.long() - source.zero_point
    if node.op == "int8.linear":
        return (x.unsqueeze(-2) * weight).sum(-1)
    stride, padding, dilation, groups = node.args[4:8]
    if node.op == "int8.conv1d":
        x, weight = x.unsqueeze(2), weight.unsqueeze(2)
        stride, padding, dilation = (1, *stride), (0, *padding), (1, *dilation)
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    kernel = weight.shape[2:]
    height, width = (
        (n - d * (k - 1) - 1) // s + 1 for n, d, k, s in zip(padded.shape[2:], dilation, kernel, stride, strict=True)
    )
    out = torch.zeros(x.shape[0], weight.shape[0], height, width, dtype=torch.int64)
    per_group = weight.shape[0] // groups
    for o in range(weight.shape[0]):
        start = o // per_group * weight.shape[1]
        for i in range(weight.shape[1]):
            for a in range(kernel[0]):
                for b in range(kernel[1]):
                    top, left = a * dilation[0], b * dilation[1]
                    patch = padded[:, start + i, top :: stride[0], left :: stride[1]][:, :height, :width]
                    out[:, o] += weight[o, i, a, b] * patch
    return out.squeeze(2) if node.op == "int8.conv1d" else out


NAMES = [
    "dense 3x3 stride 2",
    "dense 3x3 dilation 2",
    "kernel 1x5",
    "patches 4x4",
    "grouped 4 stride 2",
    "depthwise 5x5 stride 2",
    "depthwise with multiplier 2",
    "conv1d dilation 2",
    "conv1d depthwise",
    "linear 37",
    "linear tokens",
    "linear long",
    "linear float 37",
    "linear float long",
    "linear float without bias",
]


@pytest.mark.parametrize("name", NAMES)
def test_reference_equals_integer_arithmetic(name: str) -> None:
    layer = LAYERS[name]
    program, x = layer.program(), layer.inputs()
    (node,) = program.layers()
    source = program.nodes[0].grid
    assert source is not None
    result, seen = lower(program, "reference").watch(x)
    acc = accumulator(layer, program, node, seen[program.nodes[0].name])
    shape = (-1,) if node.op == "int8.linear" else (-1, *([1] * (acc.dim() - 2)))
    scale = (program.tensors[node.args[2].name] * torch.tensor(source.scale)).reshape(shape)
    bias = program.tensors[node.args[3].name].reshape(shape) if node.args[3] is not None else torch.zeros(1)
    exact = acc.double() * scale.double() + bias.double()
    if node.grid is None:
        error = (result.double() - exact).abs()
        assert bool((error <= 2e-7 * (acc.double() * scale.double()).abs() + 2e-7 * exact.abs()).all())
        return
    ideal = exact / node.grid.scale + node.grid.zero_point
    expected = torch.round(ideal).clamp(0, 255)
    got = seen[node.name].double()
    near_a_tie = (ideal - ideal.floor() - 0.5).abs() < 1e-3
    assert torch.equal(got[~near_a_tie], expected[~near_a_tie])
    assert float((got - expected).abs().max()) <= 1
    assert float(near_a_tie.float().mean()) < 0.02


def test_requantize_matches_the_formula_in_float32() -> None:
    acc = torch.randint(-(2**26), 2**26, (64, 32), generator=torch.Generator().manual_seed(0)).double()
    scale = torch.rand(32) * 1e-6 + 1e-7
    bias = torch.randn(32)
    out = grid(0.05, 31)
    y = (acc.float() + bias / scale) * (scale / torch.tensor(out.scale))
    assert torch.equal(requantize(acc, scale, bias, out), (torch.round(y) + 31).clamp(0, 255))


def test_quantize_equals_pytorchs_fake_quantize() -> None:
    x = torch.randn(100_000) * 5
    fake = torch.fake_quantize_per_tensor_affine(x, INPUT_GRID.scale, INPUT_GRID.zero_point, 0, 255)
    assert torch.equal((quantize(x, INPUT_GRID) - INPUT_GRID.zero_point) * INPUT_GRID.scale, fake)


#: What each element-wise or pooling op means, on real numbers.
MEANING: dict[str, Callable[..., Tensor]] = {
    "int8.add": torch.add,
    "int8.mul": torch.mul,
    "int8.cat": torch.cat,
    "int8.mean": lambda x, dims, keepdim=False: x.mean(dims, keepdim),
    "int8.adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "int8.avg_pool2d": F.avg_pool2d,
    "int8.hardswish": F.hardswish,
    "int8.hardsigmoid": F.hardsigmoid,
    "int8.sigmoid": torch.sigmoid,
    "int8.silu": F.silu,
    "int8.leaky_relu": F.leaky_relu,
    "int8.clamp": torch.clamp,
}


@pytest.mark.parametrize("name", OPS)
def test_reference_ops_mean_what_they_mean_on_real_numbers(name: str) -> None:
    """quantize(op(dequantize(q))) in float64; an op that keeps its grid is exact."""
    program = op_program(name)
    seen = lower(program, "reference").watch(*op_inputs())[1]
    grids = program.grids()

    def real(leaf: Any) -> Any:
        if not isinstance(leaf, Ref):
            return leaf
        at = grids[leaf.name]
        return map_leaves(seen[leaf.name], lambda q: (q.double() - at.zero_point) * at.scale)

    checked = 0
    for node in program.nodes:
        if node.op in ("int8.quantize", "int8.dequantize"):
            continue
        function = MEANING.get(node.op) or (aten_op(node.op) if node.op.startswith("aten.") else operator.getitem)
        out = grids[node.name]
        values = list(leaves(function(*map_leaves(node.args, real))))
        for value, got in zip(values, leaves(seen[node.name]), strict=True):
            assert got.shape == value.shape
            ideal = value / out.scale + out.zero_point
            expected = torch.round(ideal).clamp(0, 255)
            near_a_tie = (ideal - ideal.floor() - 0.5).abs() < 1e-4
            assert torch.equal(got.double()[~near_a_tie], expected[~near_a_tie])
            assert float((got.double() - expected).abs().max()) <= 1
            assert float(near_a_tie.double().mean()) < 0.1
            checked += 1
    assert checked


def test_every_int8_op_has_its_meaning() -> None:
    assert MEANING.keys() | {*LAYER_OPS, *TABLE_OPS, "int8.quantize", "int8.dequantize"} == INT8_OPS


def test_fused_multiply_add_rounds_once_where_the_addend_only_breaks_a_tie() -> None:
    """Products that lie in the middle between two float32 and addends far below float64's last place: found on a detector."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-(2**20), 2**20, (4000,), generator=generator).float()
    b = torch.tensor([3.354711e-08, 2.0**-30, 1.0 + 2.0**-23, 0.75]).repeat(1000)
    c = torch.tensor([1e-20, -1e-20, 1e-30, -1e-38, 0.0, 1.0, -3e-5, 2.0**-24]).repeat(500)
    a[:500] = 3.0  # times an odd number of 24 bits: an odd one of 25, in the middle between two float32
    b[:500] = (2.0**23 + 1 + 2 * torch.arange(500)) * 2.0**-40
    c[:500] = torch.tensor([-1e-25, 1e-25]).repeat(250)
    twice = (a.double() * b.double() + c.double()).float()
    found = fused_multiply_add(a, b, c)
    assert int((found != twice).sum()) > 100, "the case is none where rounding twice does no harm"
    for x, y, z, got in zip(a.tolist(), b.tolist(), c.tolist(), found.tolist(), strict=True):
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        near = np.float32(float(exact))
        candidates = [near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
        distance = [abs(Fraction(float(value)) - exact) for value in candidates]
        best = [value for value, d in zip(candidates, distance, strict=True) if d == min(distance)]
        even = [value for value in best if value.view(np.int32) % 2 == 0]
        assert got == float(best[0] if len(best) == 1 else even[0])


def test_sums_of_the_lowest_weights_are_exact() -> None:
    """-128 has no positive counterpart in int8: whether float32 suffices has to be asked in wider integers."""
    weight = torch.full((3, 4000), -128, dtype=torch.int8)
    weight[:, 1::2] = -127
    program = layer_program("int8.linear", weight, channels=4000, float_output=True, bias=False)
    node = next(program.layers())
    x = torch.randint(0, 256, (5, 4000), generator=torch.Generator().manual_seed(0))
    (source,) = [n.grid for n in program.nodes if n.op == "int8.quantize"]
    assert source is not None
    got = lower(program, "reference")((x - source.zero_point).float() * source.scale)
    exact = ((x - source.zero_point) * 1.0).double() @ weight.double().T
    scale = program.tensors[node.args[2].name] * source.scale
    assert torch.equal(got, (exact.float() * scale))
