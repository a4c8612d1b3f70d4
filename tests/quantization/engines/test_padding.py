"""A padding and the depthwise convolution behind it in one call: the same integers, for every geometry and size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qat.quantization.engines import lower
from qat.quantization.engines.padding import padded_layers, widen
from qat.quantization.program.program import Int8Program
from tests.quantization.programs import INPUT_GRID, Writer, grid

CHANNELS = 16

GEOMETRIES = [
    (3, 2, (0, 1, 0, 1)),
    (3, 2, (1, 0, 1, 0)),
    (3, 1, (0, 2, 0, 2)),
    (5, 2, (1, 2, 1, 2)),
    (3, 2, (1, 1, 0, 1)),
    (5, 2, (2, 2, 2, 2)),
]


def program(
    *,
    kernel: int = 3,
    stride: int = 2,
    amounts: tuple[int, ...] = (0, 1, 0, 1),
    groups: int = CHANNELS,
    shared: bool = False,
    weight: Tensor | None = None,
) -> Int8Program:
    """Pad, then convolve without padding; `shared` lets the output read the padded tensor, too."""
    writer = Writer((CHANNELS, None, None))
    padded = writer.add("aten.pad.default", writer.quantized(), list(amounts), grid=INPUT_GRID)
    if weight is None:
        weight = torch.randint(-60, 61, (CHANNELS, CHANNELS // groups, kernel, kernel), dtype=torch.int8)
    geometry = ((stride, stride), (0, 0), (1, 1), groups)
    y = writer.layer(
        "int8.conv2d", padded, weight, torch.full((CHANNELS,), 0.01), torch.randn(CHANNELS), *geometry, grid=grid(0.05, 120)
    )
    outputs = [writer.add("int8.dequantize", y)] + ([writer.add("int8.dequantize", padded)] if shared else [])
    return writer.finish(tuple(outputs))


def run(it: Int8Program, engine: str, x: Tensor) -> Tensor:
    output: Tensor = lower(it, engine)(x)[0]
    return output


@pytest.mark.parametrize("engine", ["fbgemm", "x86", "qnnpack"])
@pytest.mark.parametrize("size", [(8, 8), (9, 9), (8, 11), (12, 7), (3, 3)], ids=str)
@pytest.mark.parametrize(("kernel", "stride", "amounts"), GEOMETRIES, ids=str)
def test_padded_layer_equals_padding_and_layer(
    engine: str, size: tuple[int, int], kernel: int, stride: int, amounts: tuple[int, ...]
) -> None:
    it = program(kernel=kernel, stride=stride, amounts=amounts)
    x = torch.randn(2, CHANNELS, *size)
    exact, got = run(it, "reference", x), run(it, engine, x)
    assert got.shape == exact.shape
    assert float((got - exact).abs().max()) <= (0.0 if engine == "fbgemm" else 0.0501)


def test_padding_of_a_depthwise_layer_alone_is_taken_and_only_where_nothing_else_reads_it() -> None:
    it = program()
    ((layer, pad),) = padded_layers(it).items()
    node = next(node for node in it.nodes if node.name == layer)
    wide = widen(node, pad, it.tensors[node.args[1].name])
    assert wide is not None
    assert (wide.padding, tuple(wide.weight.shape)) == (2, (CHANNELS, 1, 5, 5))
    assert torch.equal(wide.weight[:, :, 2:, 2:], it.tensors[node.args[1].name])
    assert int((wide.weight != 0).sum()) == int((it.tensors[node.args[1].name] != 0).sum())
    assert padded_layers(program(shared=True)) == {}
    dense = program(groups=1)
    ((layer, pad),) = padded_layers(dense).items()
    node = next(node for node in dense.nodes if node.name == layer)
    assert widen(node, pad, dense.tensors[node.args[1].name]) is None


def test_padding_that_is_taken_is_no_step_of_its_own() -> None:
    seen = lower(program(), "fbgemm").watch(torch.randn(1, CHANNELS, 8, 8))[1]
    assert not [name for name in seen if "pad" in name]
    assert [name for name in lower(program(), "reference").watch(torch.randn(1, CHANNELS, 8, 8))[1] if "pad" in name]
