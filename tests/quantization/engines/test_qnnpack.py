"""The QNNPACK engine: integers only, the engine selected around every call."""

from __future__ import annotations

import pytest
import torch

from qat.errors import EngineError
from qat.quantization.engines import lower
from qat.quantization.engines.qnnpack import room_for_bias
from tests.quantization.networks import CASES, converted
from tests.quantization.programs import Writer, grid


def test_qnnpack_refuses_a_linear_layer_that_returns_float() -> None:
    program = converted("attention")
    with pytest.raises(EngineError) as error:
        lower(program, "qnnpack")
    assert "5 linear layers of this program return float (qkv, out, fc1)" in str(error.value)
    assert "quantization=any (for x86 and ARM) or quantization=arm" in str(error.value)


def test_qnnpack_programs_for_x86_run_on_every_engine() -> None:
    x = CASES["attention"].inputs(4)
    program = converted("attention", "any")
    exact = lower(program, "reference")(x)
    for engine in ("fbgemm", "x86", "qnnpack"):
        assert float((lower(program, engine)(x) - exact).abs().max()) < 0.1 * float(exact.abs().max())


def test_qnnpack_leaves_the_global_engine_alone() -> None:
    before = torch.backends.quantized.engine
    model = lower(converted("conv", "any"), "qnnpack")
    model(CASES["conv"].inputs())
    model.watch(CASES["conv"].inputs())
    assert torch.backends.quantized.engine == before


@pytest.mark.parametrize(("a", "b", "out"), [(10.0, 0.01, 0.02), (1e-5, 0.5, 1.0), (1e-6, 1e-6, 1.0), (0.5, 0.25, 1e-3)])
def test_qnnpack_adds_grids_of_very_different_scales(a: float, b: float, out: float) -> None:
    """Its own kernel asserts on scale ratios outside [2^-14, 2^8); the sum is then computed in another way."""
    writer = Writer((40,), (40,), target="arm")
    y = writer.add("int8.add", writer.quantized(0, grid(a, 128)), writer.quantized(1, grid(b, 128)), grid=grid(out, 128))
    program = writer.finish(y)
    x = (torch.randn(5, 40) * a * 40, torch.randn(5, 40) * b * 40)
    exact, got = (lower(program, engine).watch(*x)[1][y.name].int() for engine in ("reference", "qnnpack"))
    assert int((exact - got).abs().max()) <= 1


@pytest.mark.parametrize("input_scale", [1e-3, 1e-5, 1e-7, 1e-9])
def test_qnnpack_bias_that_outweighs_a_dead_input_does_not_wrap_around(input_scale: float) -> None:
    """b / (s_x s_w) of up to 1e13: in int32 it would come back with any sign."""
    writer = Writer((6, 5, 5), target="arm")
    weight = torch.randint(-127, 128, (4, 6, 3, 3), dtype=torch.int8)
    bias = torch.tensor([-4.6, 4.0, 0.5, 1e-9])
    out = grid(0.04, 128)
    x_grid, geometry = writer.quantized(0, grid(input_scale, 0)), ((1, 1), (0, 0), (1, 1), 1)
    y = writer.layer("int8.conv2d", x_grid, weight, torch.full((4,), 1e-4), bias, *geometry, grid=out)
    program = writer.finish(y)
    x = torch.rand(3, 6, 5, 5) * 255 * input_scale
    exact, got = (lower(program, engine).watch(x)[1][y.name].int() for engine in ("reference", "qnnpack"))
    assert int((exact - got).abs().max()) <= 1
    assert len(exact.unique()) > 1


def test_room_for_a_bias_that_fits_changes_nothing() -> None:
    weight, scale, bias = torch.ones(2, 3, dtype=torch.int8), torch.full((2,), 0.01), torch.tensor([1.0, -2.0])
    assert all(a is b for a, b in zip(room_for_bias(weight, scale, bias, 0.1), (weight, scale), strict=True))
