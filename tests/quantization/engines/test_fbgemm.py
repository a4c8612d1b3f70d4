"""The FBGEMM engine: one kernel from float to float for linear layers; it selects and restores PyTorch's engine."""

from __future__ import annotations

import pytest
import torch

from qat.errors import EngineError
from qat.quantization.engines import lower
from qat.quantization.layouts import ChannelsLast
from tests.quantization.layers import LAYERS
from tests.quantization.networks import CASES, converted
from tests.quantization.programs import Writer, extreme_weight


@pytest.mark.parametrize("out", [1, 7, 10, 16, 37, 255])
@pytest.mark.parametrize("rows", [1, 2, 5, 33])
def test_fbgemm_quantizes_floats_inside_a_linear_layer_as_the_reference_does(rows: int, out: int) -> None:
    """Off the grid, in odd sizes: the tails of its vector loops round like their bodies."""
    layer = type(LAYERS["linear 10"])("int8.linear", (out, 29), float_output=True)
    program = layer.program(seed=out)
    x = torch.randn(rows, 29, generator=torch.Generator().manual_seed(rows)) * 3
    assert torch.equal(lower(program, "fbgemm")(x), lower(program, "reference")(x))


def test_fbgemm_linear_takes_integers_that_others_read_too() -> None:
    """A grid that a convolution and a float linear read is quantized once and dequantized for the linear layer."""
    writer = Writer((16,))
    q = writer.quantized()
    weight = extreme_weight((8, 16), [ChannelsLast()])
    scale, bias = torch.full((8,), 2.0**-9), torch.randn(8)
    a = writer.layer("int8.linear", q, weight, scale, bias, grid=None)
    b = writer.layer("int8.linear", q, weight, scale, None, grid=writer.nodes[0].grid)
    program = writer.finish((a, writer.add("int8.dequantize", b)))
    x = torch.randn(3, 16) * 3
    for got, expected in zip(lower(program, "fbgemm")(x), lower(program, "reference")(x), strict=True):
        assert torch.equal(got, expected)


def test_fbgemm_linear_takes_the_integers_of_a_layer_before_it() -> None:
    writer = Writer((16,))
    weight = extreme_weight((16, 16), [ChannelsLast()])
    scale = torch.full((16,), 2.0**-9)
    hidden = writer.layer("int8.linear", writer.quantized(), weight, scale, None, grid=writer.nodes[0].grid)
    y = writer.layer("int8.linear", hidden, weight, scale, None, grid=None)
    program = writer.finish(y)
    x = torch.randn(5, 16) * 3
    assert torch.equal(lower(program, "fbgemm")(x), lower(program, "reference")(x))


def test_fbgemm_leaves_the_global_engine_alone() -> None:
    before = torch.backends.quantized.engine
    model = lower(converted("conv"), "fbgemm")
    model(CASES["conv"].inputs())
    assert torch.backends.quantized.engine == before


def test_fbgemm_computes_the_same_whatever_engine_is_selected_globally() -> None:
    x = CASES["squeeze_excite"].inputs()
    model = lower(converted("squeeze_excite"), "fbgemm")
    expected = model(x)
    before = torch.backends.quantized.engine
    try:
        for name in torch.backends.quantized.supported_engines:
            if name != "none":
                torch.backends.quantized.engine = name
                assert torch.equal(model(x), expected), name
    finally:
        torch.backends.quantized.engine = before


def test_fbgemm_refuses_a_program_for_arm() -> None:
    """Its depthwise kernels add in 16 bits on every x86 CPU, and nothing bounds the weights of this program."""
    with pytest.raises(EngineError, match=r"layer '(depthwise|expand).0' could.*made for target 'arm'.*quantization=any"):
        lower(converted("squeeze_excite", "arm"), "fbgemm")


def test_fbgemm_keeps_channels_last_behind_its_own_layers() -> None:
    """The layout that its kernels compute in; a float op that reads it sees the same strides on the reference."""
    program = LAYERS["dense 3x3"].program()
    x = LAYERS["dense 3x3"].inputs()
    strides = {engine: lower(program, engine)(x).stride() for engine in ("fbgemm", "reference")}
    assert strides["fbgemm"] == strides["reference"]
