"""16-bit saturation is impossible by construction: the bound, and the kernels that would saturate without it.

Everything here holds on every CPU. What only some kernels do is asked of the probe, and the emulated sum does it everywhere;
on a machine with VNNI `test_avx2.py` runs this file again on AVX2 kernels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.quantization.calibrate import calibrate
from qat.quantization.convert import convert
from qat.quantization.engines import ENGINES, lower
from qat.quantization.engines import native as native_module
from qat.quantization.engines.native_engine import NativeEngine, packed_weights
from qat.quantization.engines.padding import padded_layers
from qat.quantization.layouts import ChannelsLast, Kind, kind_of, layouts_of, pair_sums
from qat.quantization.prepare import prepare
from qat.quantization.program.program import Node
from tests.quantization.layers import LAYERS, Layer
from tests.quantization.networks import CASES, Inline, converted
from tests.quantization.programs import TRAP, TRAP_FRAME, extreme_weight
from tests.quantization.sixteen_bits import exact_sum, saturating_sum

X86_ENGINES = ("fbgemm", "x86")


def native(name: str) -> NativeEngine:
    engine = ENGINES[name]
    assert isinstance(engine, NativeEngine)
    return engine


def groups_of(node: Node) -> int:
    return int(node.args[7]) if node.op != "int8.linear" else 1


def worst_inputs(weight: Tensor) -> Tensor:
    """255 under every weight of one sign, for each channel and sign: what makes each channel's pairs largest."""
    return torch.cat([(weight > 0) * 255, (weight < 0) * 255, torch.full_like(weight, 255, dtype=torch.int64)])


# --- the formula ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["x86", "any"])
@pytest.mark.parametrize("name", CASES)
def test_no_sum_of_a_program_for_every_x86_cpu_saturates(name: str, target: str) -> None:
    """The emulated sum of every packed weight, in every layout, on the inputs that make it largest."""
    program = converted(name, target)
    assert list(packed_weights(program))
    for _, weight in packed_weights(program):
        x = worst_inputs(weight)
        for layout in layouts_of(weight):
            assert torch.equal(saturating_sum(x, weight, layout), exact_sum(x, weight))


@pytest.mark.parametrize("name", CASES)
def test_no_depthwise_sum_of_a_vnni_program_saturates(name: str) -> None:
    program = converted(name, "x86_vnni")
    for node, weight in packed_weights(program):
        if kind_of(node.op, weight, groups_of(node)) is Kind.DEPTHWISE:
            assert int(pair_sums(weight.short(), ChannelsLast()).max()) <= 128


def test_emulated_sums_saturate_without_the_bound() -> None:
    """So that the tests above can fail: a target that bounds nothing exceeds 16 bits in both layouts."""
    for shape in ((16, 1, 3, 3), (16, 8), (16, 3, 3, 3)):
        weight = extreme_weight(shape)
        x = worst_inputs(weight)
        for layout in layouts_of(weight):
            assert not torch.equal(saturating_sum(x, weight, layout), exact_sum(x, weight))
    assert any(
        int(pair_sums(weight.short(), ChannelsLast()).max()) > 128 for _, weight in packed_weights(converted("conv", "arm"))
    )


@pytest.mark.parametrize("seed", range(20))
def test_emulated_sums_of_random_weights_at_the_bound_are_exact(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for shape in ((12, 1, 3, 3), (12, 5, 3, 3), (12, 4, 1, 1), (12, 33), (12, 3, 7), (12, 1, 5, 5)):
        weight = extreme_weight(shape, layouts_of(torch.empty(shape)), seed=seed)
        ends = torch.randint(0, 2, (64, *shape[1:]), generator=generator) * 255
        x = torch.cat([ends, worst_inputs(weight)])
        for layout in layouts_of(weight):
            assert torch.equal(saturating_sum(x, weight, layout), exact_sum(x, weight))
            assert int(pair_sums(weight.short(), layout).max()) == 128  # the bound is reached


# --- the kernels ----------------------------------------------------------------------------------------------------


def wrong_outputs(layer: Layer, engine: str, *, bound: bool, target: str = "any") -> int:
    """Outputs of an engine that are not exact (`x86`: more than a step away), on full-range inputs and weights."""
    program, x = layer.program(bound=bound, target=target), layer.inputs(4)
    (node,) = program.layers()
    exact = lower(program, "reference").watch(x)[1][node.name]
    got = ENGINES[engine].bind(program).watch(x)[1][node.name]  # without asking whether it may
    return int(((exact.int() - got.int()).abs() > (0 if engine == "fbgemm" else 1)).sum())


def integer_layers() -> dict[str, Layer]:
    return {name: layer for name, layer in LAYERS.items() if not layer.float_output}


@pytest.mark.parametrize("engine", X86_ENGINES)
@pytest.mark.parametrize("name", integer_layers())
def test_kernels_are_exact_at_the_bound(name: str, engine: str) -> None:
    assert wrong_outputs(LAYERS[name], engine, bound=True) == 0


@pytest.mark.parametrize("engine", X86_ENGINES)
def test_kernels_saturate_without_the_bound_where_the_probe_says_so(engine: str) -> None:
    """And nowhere else: on a machine with VNNI in depthwise layers alone, on one without everywhere."""
    found = native(engine).saturation().layouts
    wrong = dict.fromkeys(Kind, 0)
    for layer in integer_layers().values():
        wrong[kind_of(layer.op, torch.empty(layer.weight), layer.groups)] += wrong_outputs(layer, engine, bound=False)
    assert {kind for kind, count in wrong.items() if count} == {kind for kind, layouts in found.items() if layouts}
    assert Kind.DEPTHWISE in {kind for kind, layouts in found.items() if layouts}, "x86 CPUs of every kind saturate there"


@pytest.mark.parametrize("shape", [(8, 8), (9, 7), (6, 11)])
def test_float_linear_layers_are_exact_at_the_bound(shape: tuple[int, int]) -> None:
    layer = replace(LAYERS["linear float 10"], weight=shape)
    program, x = layer.program(), layer.inputs(4)
    assert torch.equal(lower(program, "fbgemm")(x), lower(program, "reference")(x))


def test_taken_over_padding_is_exact_at_the_bound_of_its_frame() -> None:
    """A 3x3 kernel in rows of five has other neighbours. Weights bounded in the plain layout alone could saturate."""
    pad = (1, 1, 0, 1)

    def padded(m: Any, x: Tensor) -> Tensor:
        y: Tensor = m.depthwise(F.pad(m.first(x), pad))
        return y

    first, depthwise = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, stride=2, groups=8)
    assert int(pair_sums(TRAP, ChannelsLast()).max()) == 127 < 128 < int(pair_sums(TRAP, TRAP_FRAME).max())
    with torch.no_grad():
        depthwise.weight.copy_(TRAP.float().expand(8, -1, -1, -1))
    model = Inline(padded, first=first, depthwise=depthwise).eval()
    x = torch.randn(2, 8, 8, 8)
    prepared = prepare(model, (x,))
    calibrate(prepared, [x])
    program = convert(prepared)
    assert padded_layers(program)
    assert len(list(packed_weights(program))) == 3  # the first layer, and the padded one in both of its layouts
    for _, weight in packed_weights(program):
        assert int(pair_sums(weight.short(), ChannelsLast()).max()) <= 128
    assert torch.equal(lower(program, "fbgemm")(x), lower(program, "reference")(x))


@pytest.mark.parametrize("name", CASES)
def test_every_weight_that_is_packed_was_checked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes into a packing call, row by row, are rows of `packed_weights`."""
    program, packed = converted(name, "any"), []

    def spy(function: Any) -> Any:
        def call(weight: Tensor, scale: Tensor) -> Tensor:
            packed.append(weight)
            result: Tensor = function(weight, scale)
            return result

        return call

    monkeypatch.setattr(native_module, "per_channel", spy(native_module.per_channel))
    for engine in X86_ENGINES:
        lower(program, engine)
    checked = {row.numpy().tobytes() for _, weight in packed_weights(program) for row in weight}
    assert packed
    assert all(row.contiguous().numpy().tobytes() in checked for weight in packed for row in weight)
