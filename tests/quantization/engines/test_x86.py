"""The x86 engine: oneDNN rounds in another order, by one step, in fewer than 1 of 100,000 outputs."""

from __future__ import annotations

import pytest
import torch

from qat.quantization.engines import lower
from tests.quantization.layers import LAYERS, Layer
from tests.quantization.networks import CASES, converted


@pytest.mark.parametrize("names", [("dense 1x1", "dense 3x3 wide", "conv1d"), ("grouped 16", "linear 1000", "linear tokens")])
def test_x86_differs_in_fewer_than_1_of_100000_outputs(names: tuple[str, ...]) -> None:
    """Counted over layers of at least 200,000 outputs together, each given the same input."""
    wrong = total = 0
    for name in names:
        for seed in range(4):
            program, x = LAYERS[name].program(seed=seed), LAYERS[name].inputs(24, seed=seed)
            (node,) = program.layers()
            exact, got = (lower(program, engine).watch(x)[1][node.name].int() for engine in ("reference", "x86"))
            assert int((exact - got).abs().max()) <= 1
            wrong += int((exact != got).sum())
            total += exact.numel()
    assert total >= 200_000
    assert wrong <= max(1, total // 100_000)


@pytest.mark.parametrize("name", [name for name in LAYERS if "float" in name])
def test_x86_takes_fbgemm_for_linear_layers_that_return_float(name: str) -> None:
    program, x = LAYERS[name].program(), LAYERS[name].inputs(5)
    assert torch.equal(lower(program, "x86")(x), lower(program, "fbgemm")(x))


def test_x86_decides_like_the_reference() -> None:
    for name in CASES:
        x = CASES[name].inputs(16, seed=3)
        exact, got = (lower(converted(name, "x86"), engine)(x) for engine in ("reference", "x86"))
        assert float((exact.argmax(1) == got.argmax(1)).float().mean()) >= 0.98


@pytest.mark.parametrize("size", [(4, 3), (4, 4), (9, 11)])
@pytest.mark.parametrize("stride", [(1, 2), (2, 1)])
def test_x86_is_within_a_step_at_strides_that_differ(stride: tuple[int, int], size: tuple[int, int]) -> None:
    """oneDNN's depthwise kernel with a multiplier is off by up to 200 steps there."""
    layer = Layer("int8.conv2d", (16, 1, 3, 3), size, (stride, (0, 0), (1, 1), 8))
    program, x = layer.program(), layer.inputs(2)
    name = next(program.layers()).name
    exact, got = (lower(program, engine).watch(x)[1][name].int() for engine in ("reference", "x86"))
    assert int((exact - got).abs().max()) <= 1
